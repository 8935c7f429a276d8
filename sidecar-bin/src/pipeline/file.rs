//! The file of a pipeline: TOML with one table for each module.

use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidecar_core::ModuleName;
use sidecar_core::plane::nearest;
use sidecar_core::worker::WorkerSettings;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The keys of a module, as the schema in docs/pipeline.schema.json has them.
pub(super) const KEYS: [&str; 13] = [
    "command",
    "subscribes",
    "publishes",
    "concurrency",
    "wrap",
    "warm",
    "environment",
    "timeout",
    "max-deliveries",
    "directory",
    "group",
    "memoize",
    "version",
];

/// A chain of modules.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(super) modules: Vec<ModuleSpec>,
}

/// A module of it.
#[derive(Debug)]
pub(crate) struct ModuleSpec {
    pub(super) name: ModuleName,
    /// The line that its table begins on.
    pub(super) line: usize,
    pub(super) command: Vec<String>,
    pub(super) subscribes: Vec<String>,
    /// `None` allows any type.
    pub(super) publishes: Option<Vec<String>>,
    pub(super) concurrency: NonZeroUsize,
    pub(super) wrap: bool,
    pub(super) warm: bool,
    pub(super) environment: Vec<(String, String)>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_deliveries: NonZeroU32,
    pub(super) directory: PathBuf,
    pub(super) group: ModuleName,
    /// The version of a module whose outcomes are taken over by equal work.
    pub(super) memoize: Option<String>,
}

/// Reads a pipeline; relative directories are below that of the file.
///
/// # Errors
/// One line for each thing that is wrong, with its place in the file.
pub(super) fn read(path: &Path, cannot_start: CannotStart) -> Result<Pipeline, Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|error| vec![format!("{}: {error}", path.display())])?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory =
        std::path::absolute(parent).map_err(|error| vec![format!("{}: {error}", path.display())])?;
    parse(&text, &path.display().to_string(), &directory, cannot_start)
}

/// Why a command cannot be started in a directory, if it cannot.
pub(super) type CannotStart = fn(&[String], &Path) -> Option<String>;

/// The same of a text, whose errors begin with `name`.
pub(super) fn parse(
    text: &str,
    name: &str,
    directory: &Path,
    cannot_start: CannotStart,
) -> Result<Pipeline, Vec<String>> {
    let mut reader = Reader { text, name, cannot_start, problems: Vec::new() };
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            reader.problem(&error.span().unwrap_or_default(), error.message());
            return Err(reader.problems);
        }
    };
    let mut modules = Vec::new();
    for (key, value) in &table {
        match (&**key.get_ref(), value.get_ref()) {
            ("modules", DeValue::Table(tables)) => {
                modules =
                    tables.iter().filter_map(|(name, table)| reader.module(name, table, directory)).collect();
            }
            ("modules", _) => reader.problem(&value.span(), "modules are tables: [modules.NAME]"),
            (other, _) => reader.unknown(&key.span(), other, &["modules"]),
        }
    }
    // As they stand in the file.
    modules.sort_by_key(|module: &ModuleSpec| module.line);
    if modules.is_empty() && reader.problems.is_empty() {
        reader.problem(&(0..0), "there is no module: begin with [modules.NAME]");
    }
    if reader.problems.is_empty() { Ok(Pipeline { modules }) } else { Err(reader.problems) }
}

struct Reader<'t> {
    text: &'t str,
    name: &'t str,
    cannot_start: CannotStart,
    problems: Vec<String>,
}

type Value<'v> = Spanned<DeValue<'v>>;

impl Reader<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        self.text[..span.start.min(self.text.len())].matches('\n').count() + 1
    }

    fn problem(&mut self, span: &Range<usize>, what: impl AsRef<str>) {
        self.problems.push(format!("{}:{}: {}", self.name, self.line(span), what.as_ref()));
    }

    fn unknown(&mut self, span: &Range<usize>, key: &str, known: &[&str]) {
        let meant = nearest(key, known.iter().copied());
        let meant = meant.map(|meant| format!("; did you mean {meant:?}?"));
        let all = || format!("; the keys are {}", known.join(", "));
        self.problem(span, format!("{key:?} is not known here{}", meant.unwrap_or_else(all)));
    }

    fn module(
        &mut self,
        key: &Spanned<impl AsRef<str>>,
        table: &Value<'_>,
        directory: &Path,
    ) -> Option<ModuleSpec> {
        let (text, span) = (key.get_ref().as_ref(), key.span());
        let name = ModuleName::parse(text).map_err(|error| self.problem(&span, error.to_string())).ok();
        let DeValue::Table(entries) = table.get_ref() else {
            self.problem(&table.span(), format!("module {text} is no table: say [modules.{text}]"));
            return None;
        };
        for (key, _) in entries {
            if !KEYS.contains(&&**key.get_ref()) {
                self.unknown(&key.span(), key.get_ref(), &KEYS);
            }
        }
        let get =
            |key: &str| entries.iter().find(|(name, _)| &**name.get_ref() == key).map(|(_, value)| value);
        let command = match get("command") {
            Some(value) => self.command(value),
            None => {
                self.problem(&span, format!("module {text} has no command"));
                Vec::new()
            }
        };
        let subscribes = match get("subscribes") {
            Some(value) => self.types(value, "subscribes"),
            None => Vec::new(),
        };
        if subscribes.is_empty() {
            self.problem(&span, format!("module {text} subscribes to nothing: say subscribes = [\"TYPE\"]"));
        }
        let (wrap, warm) = (self.switch(get("wrap"), "wrap"), self.switch(get("warm"), "warm"));
        if wrap && warm {
            self.problem(&span, format!("module {text} can be wrapped or stay warm, not both"));
        }
        let group = get("group").and_then(|value| self.text(value, "group"));
        let group = group.map(|group| {
            ModuleName::parse(&group).map_err(|error| self.problem(&span, format!("group: {error}")))
        });
        let concurrency = get("concurrency").and_then(|value| self.number(value, "concurrency"));
        let max_deliveries = get("max-deliveries").and_then(|value| self.number(value, "max-deliveries"));
        let publishes = get("publishes").map(|value| self.types(value, "publishes"));
        let environment = get("environment").map(|value| self.environment(value)).unwrap_or_default();
        let timeout = get("timeout").and_then(|value| self.duration(value));
        let version = get("version").and_then(|value| self.version(value));
        let memoize = self.switch(get("memoize"), "memoize");
        if memoize && get("version").is_none() {
            self.problem(&span, format!("module {text} is memoized: say its version, as in version = \"1\""));
        }
        let below = get("directory").and_then(|value| self.text(value, "directory"));
        let directory = below.map_or_else(|| directory.to_owned(), |below| directory.join(below));
        if let Some(why) = (self.cannot_start)(&command, &directory) {
            self.problem(&span, format!("module {text}: {why}"));
        }
        let name = name?;
        Some(ModuleSpec {
            line: self.line(&span),
            command,
            subscribes,
            publishes,
            concurrency: concurrency
                .and_then(|n| usize::try_from(n.get()).ok()?.try_into().ok())
                .unwrap_or(NonZeroUsize::MIN),
            wrap,
            warm,
            environment,
            timeout,
            max_deliveries: max_deliveries.unwrap_or(WorkerSettings::DEFAULT_MAX_DELIVERIES),
            directory,
            group: group.and_then(Result::ok).unwrap_or_else(|| name.clone()),
            memoize: version.filter(|_| memoize),
            name,
        })
    }

    fn version(&mut self, value: &Value<'_>) -> Option<String> {
        let version = self.text(value, "version")?;
        if version.is_empty() {
            self.problem(
                &value.span(),
                "version is empty: it is a text that changes whenever the module does",
            );
        }
        Some(version)
    }

    /// A list of words, or one text as a shell takes it apart.
    fn command(&mut self, value: &Value<'_>) -> Vec<String> {
        let words = match value.get_ref() {
            DeValue::String(line) => {
                let words = shlex::split(line);
                if words.is_none() {
                    self.problem(&value.span(), "command: a quotation mark is open, or a backslash ends it");
                    return Vec::new();
                }
                words
            }
            DeValue::Array(_) => Some(self.texts(value, "command")),
            _ => None,
        };
        match words {
            Some(words) if !words.is_empty() => words,
            _ => {
                self.problem(
                    &value.span(),
                    "command is a text or a list of texts, as in [\"python3\", \"m.py\"]",
                );
                Vec::new()
            }
        }
    }

    fn types(&mut self, value: &Value<'_>, key: &str) -> Vec<String> {
        let types = self.texts(value, key);
        if types.iter().any(String::is_empty) {
            self.problem(&value.span(), format!("{key}: an event type is empty"));
        }
        types
    }

    fn texts(&mut self, value: &Value<'_>, key: &str) -> Vec<String> {
        match value.get_ref() {
            DeValue::String(one) => vec![one.to_string()],
            DeValue::Array(several) => several.iter().filter_map(|value| self.text(value, key)).collect(),
            _ => {
                self.problem(&value.span(), format!("{key} is a list of texts"));
                Vec::new()
            }
        }
    }

    fn text(&mut self, value: &Value<'_>, key: &str) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => {
                self.problem(&value.span(), format!("{key} is a text in quotes"));
                None
            }
        }
    }

    fn switch(&mut self, value: Option<&Value<'_>>, key: &str) -> bool {
        match value.map(|value| (value, value.get_ref())) {
            None => false,
            Some((_, DeValue::Boolean(on))) => *on,
            Some((value, _)) => {
                self.problem(&value.span(), format!("{key} is true or false"));
                false
            }
        }
    }

    fn number(&mut self, value: &Value<'_>, key: &str) -> Option<NonZeroU32> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.and_then(NonZeroU32::new);
        if number.is_none() {
            self.problem(&value.span(), format!("{key} is a whole number from 1 on"));
        }
        number
    }

    fn duration(&mut self, value: &Value<'_>) -> Option<Duration> {
        let text = self.text(value, "timeout")?;
        humantime::parse_duration(&text)
            .map_err(|error| self.problem(&value.span(), format!("timeout: {error}, as in \"5m\"")))
            .ok()
    }

    fn environment(&mut self, value: &Value<'_>) -> Vec<(String, String)> {
        let DeValue::Table(variables) = value.get_ref() else {
            self.problem(&value.span(), "environment is a table: { NAME = \"value\" }");
            return Vec::new();
        };
        let mut all = Vec::new();
        for (name, value) in variables {
            let (name, span) = (name.get_ref(), name.span());
            if name.is_empty() || name.contains(['=', '\0']) {
                self.problem(&span, format!("{name:?} is no name of a variable"));
            } else if let Some(value) = self.text(value, name) {
                all.push((name.to_string(), value));
            }
        }
        all
    }
}
