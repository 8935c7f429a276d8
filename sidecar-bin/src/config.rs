//! Settings that hold: every flag is checked here, and all that is wrong is reported together.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use sidecar_core::plane::overlaps;
use sidecar_core::process::Service;
use sidecar_core::server::{Listen, kept_secret};
use sidecar_core::{
    Cache, Context, EventId, EventTypes, First, Layout, ModuleName, ModuleUser, OnFailure, Settings,
    TraceParent,
};
use tracing::level_filters::LevelFilter;

use crate::again::secret;
use crate::errors::Errors;
use crate::options::Options;
use crate::plane::{DEV_DIR, Plane};
use crate::secrets::{Secrets, read_files};

/// Where development mode keeps the secret that it makes up, for modules to find it.
pub(crate) const DEV_SECRET: &str = "secret";

/// The shortest secret where more than this machine can guess at it, in bytes.
const SHORTEST_SECRET: usize = 16;

/// Settings that are not printed as they were given: they are printed as what follows from them.
const ELSEWHERE: [&str; 6] = [
    "azureblobprovider",
    "mongodbdocprovider",
    "servicebuseventprovider",
    "config",
    "printconfig",
    "development",
];

/// How the program was started, as far as settings depend on it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mode {
    Serve,
    /// With the name to use for the module where none is given.
    Run {
        name: String,
    },
    /// The same for every event of a subscription.
    Worker {
        name: String,
    },
    /// The same for a chain of modules.
    #[cfg_attr(not(feature = "pipeline"), allow(dead_code))]
    Pipeline,
    /// `prepare` and `commit`.
    OneShot,
    /// `submit`, `check` and others, which process no event.
    NoEvent,
}

impl Mode {
    fn starts_modules(&self) -> bool {
        matches!(self, Self::Run { .. } | Self::Worker { .. } | Self::Pipeline)
    }
}

/// What the records of the log look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the log goes.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) level: LevelFilter,
    pub(crate) format: Format,
    pub(crate) file: Option<PathBuf>,
}

/// Everything the program needs to know. Deliberately without `Debug`: it holds the secret.
pub(crate) struct Config {
    /// Absent where no event is processed. Without `--context.correlationid` that id is empty: only the event
    /// itself can tell.
    pub(crate) settings: Option<Settings>,
    pub(crate) service: Service,
    pub(crate) plane: Plane,
    pub(crate) secrets: Secrets,
    pub(crate) log: Log,
    pub(crate) print: bool,
    /// The settings that were given, without secrets.
    given: Vec<(&'static str, String)>,
}

/// The trace that whoever started this program is in.
pub(crate) fn traceparent() -> Option<TraceParent> {
    std::env::var("TRACEPARENT").ok()?.parse().ok()
}

impl Config {
    /// The settings that `options` say.
    ///
    /// # Errors
    /// One line for each flag that is missing or cannot be used.
    pub(crate) fn parse(
        mut options: Options,
        mode: &Mode,
        parent_is_empty: bool,
    ) -> Result<Self, Vec<String>> {
        let mut errors = Errors::default();
        if matches!(mode, Mode::Run { .. }) && options.context_eventid.as_deref() == Some("") {
            // What should have named the event has failed: to make up another hides it.
            errors.push("context.eventid", "is empty; leave it out to begin a graph");
        }
        if let Some(id) = options.context_eventid.as_ref().filter(|id| id.trim() != **id) {
            errors.push("context.eventid", format!("{id:?} begins or ends with a blank"));
        }
        if matches!(mode, Mode::Worker { .. } | Mode::Pipeline)
            && options.context_eventid.as_ref().is_some_and(|id| !id.is_empty())
        {
            errors.push("context.eventid", "has no effect: a worker processes the events that it receives");
        }
        // An empty variable is how many environments spell "not set".
        for text in options.all_mut() {
            text.take_if(|text| text.is_empty());
        }
        // Kubernetes gives every pod this address of a Service that is called sidecar.
        options.serverport.take_if(|port| port.starts_with("tcp://"));
        let named = [&options.blobs, &options.documents, &options.events, &options.azureblobprovider];
        let embedded = *mode == Mode::Pipeline && named.iter().all(|named| named.is_none());
        let development = errors.switch("development", &options.development).unwrap_or(embedded);
        let given = options.clone();
        read_files(&mut options, &mut errors);
        let secrets = Secrets::new(given, &mut options, development);
        // A variable that was made of a file's content ends as the file does; no header can.
        if let Some(secret) = &mut options.sharedsecret {
            secret.truncate(secret.trim_end_matches(['\r', '\n']).len());
        }
        let options = &options;
        let plane = Plane::parse(options, development, &mut errors);
        let service = service(options, mode, development, &mut errors);
        let event_id = options
            .context_eventid
            .as_deref()
            .and_then(|id| EventId::parse(id).map_err(|error| errors.push("context.eventid", error)).ok());
        let first = match errors.switch("first", &options.first).unwrap_or(development || parent_is_empty) {
            _ if event_id.is_none() => First::Yes,
            true => First::Allowed,
            false => First::No,
        };
        let mut settings = settings(options, mode, event_id, development, &mut errors);
        let give_up = errors.switch("give-up", &options.give_up).unwrap_or(false);
        let patience = errors.duration("retry-for", &options.retry_for, Settings::DEFAULT_PATIENCE);
        let uid = errors.parse("module-uid", &options.module_uid, "a user's number");
        let gid = errors.parse("module-gid", &options.module_gid, "a group's number");
        let own = rustix::process::geteuid();
        if uid.is_some_and(|uid| !own.is_root() && own.as_raw() != uid) {
            errors.push(
                "module-uid",
                format!("only root may act for another user; this is user {}", own.as_raw()),
            );
        }
        if uid.is_none() && options.module_gid.is_some() {
            errors.push("module-gid", "has no effect without --module-uid");
        }
        if let Some(settings) = &mut settings {
            settings.module_user = match uid {
                Some(uid) => ModuleUser::Other { uid, gid: gid.unwrap_or(uid) },
                None if mode.starts_modules() => ModuleUser::Same,
                None => ModuleUser::Unknown,
            };
            (settings.first, settings.give_up, settings.patience) = (first, give_up, patience);
        }
        let level = match options.loglevel.as_deref() {
            None => LevelFilter::INFO,
            Some(text) => match &*text.to_ascii_lowercase() {
                "warning" => LevelFilter::WARN,
                // Of the original's: nothing is worse than an error here.
                "fatal" | "panic" => LevelFilter::ERROR,
                other => other.parse().unwrap_or_else(|_| {
                    errors
                        .push("loglevel", format!("{text:?} is not one of error, warn, info, debug, trace"));
                    LevelFilter::INFO
                }),
            },
        };
        let format = match options.log_format.as_deref() {
            None | Some("text") => Format::Text,
            Some("json") => Format::Json,
            Some(other) => {
                errors.push("log-format", format!("{other:?} is neither text nor json"));
                Format::Text
            }
        };
        let log = Log { level, format, file: options.logfile.as_ref().map(PathBuf::from) };
        let mut private = Vec::new();
        private.extend(settings.as_ref().map(|settings| ("--statedir", settings.state_dir.as_path())));
        let cache = settings.as_ref().and_then(|settings| settings.cache.as_ref());
        private.extend(cache.map(|cache| ("--cache", cache.dir())));
        private.extend(log.file.as_ref().map(|file| ("--logfile", file.as_path())));
        let stores = plane.iter().flat_map(|plane| plane.unopened.directories());
        let stores: Vec<_> = stores.map(|(setting, dir)| (format!("--{setting}"), dir)).collect();
        errors.0.extend(overlaps(settings.as_ref().map(|settings| &settings.layout), &private, &stores));
        let print = errors.switch("printconfig", &options.printconfig).unwrap_or(false);
        match (errors.0.is_empty(), plane) {
            (true, Some(plane)) => {
                let given = options.given().filter(|(flag, _)| !secret(flag) && !ELSEWHERE.contains(flag));
                let given = given.map(|(flag, value)| (flag, value.to_owned())).collect();
                Ok(Self { settings, service, plane, secrets, log, print, given })
            }
            _ => Err(errors.0),
        }
    }

    /// The settings in force without secrets, as a file that `--config` takes.
    pub(crate) fn describe(&self) -> String {
        let mut lines: Vec<(&str, String)> = Vec::new();
        if let Some(Settings { context, layout, state_dir, event_types, parallel, first, .. }) =
            &self.settings
        {
            lines.push(("context.eventid", context.event_id.to_string()));
            lines.push(("context.correlationid", context.correlation_id.clone()));
            lines.push(("context.parenteventid", context.parent_event_id.clone()));
            lines.push(("context.name", context.name.to_string()));
            lines.extend((*first == First::Allowed).then(|| ("first", true.to_string())));
            lines.push(("basedir", layout.base().display().to_string()));
            lines.push(("statedir", state_dir.display().to_string()));
            let types = match event_types {
                EventTypes::Any => String::new(),
                EventTypes::Only(types) => types.join(","),
            };
            lines.push(("valideventtypes", types));
            lines.push(("parallel", parallel.to_string()));
        }
        let Service { listen, lease, exit_on_done, linger, grace, .. } = &self.service;
        let Listen { address, socket, .. } = listen;
        lines.push(("serveraddress", address.ip().to_string()));
        lines.push(("serverport", address.port().to_string()));
        lines.extend(socket.iter().map(|socket| ("socket", socket.display().to_string())));
        lines.extend(lease.map(|lease| ("module-timeout", humantime::format_duration(lease).to_string())));
        lines.push(("exit-on-done", exit_on_done.to_string()));
        lines.push(("linger", humantime::format_duration(*linger).to_string()));
        lines.push(("grace", humantime::format_duration(*grace).to_string()));
        lines.extend(self.plane.describe());
        lines.push(("loglevel", self.log.level.to_string()));
        // Whoever keeps a value in a file has a reason.
        let in_file =
            |flag: &str| self.given.iter().any(|(given, _)| given.strip_suffix("-file") == Some(flag));
        lines.retain(|(flag, _)| !in_file(flag));
        for (flag, value) in &self.given {
            if !lines.iter().any(|(known, _)| known == flag) {
                lines.push((flag, value.clone()));
            }
        }
        // Only a number is one: the event 007 is not 7.
        let value = |flag: &str, text: String| match crate::options::value_of(flag) {
            "N" | "PORT" | "UID" | "GID" => {
                text.parse().map_or(toml::Value::String(text), toml::Value::Integer)
            }
            "BOOL" => toml::Value::Boolean(text == "true"),
            _ => toml::Value::String(text),
        };
        let given = lines.into_iter().filter(|(_, text)| !text.is_empty());
        given.map(|(flag, text)| format!("{flag} = {}\n", value(flag, text))).collect()
    }
}

fn service(options: &Options, mode: &Mode, development: bool, errors: &mut Errors) -> Service {
    let secret = match &options.sharedsecret {
        Some(secret) => secret.clone(),
        // Where nothing is started, nothing is made.
        None if development && !errors.0.is_empty() => uuid::Uuid::new_v4().to_string(),
        None if development && *mode == Mode::Serve => kept_secret(&Path::new(DEV_DIR).join(DEV_SECRET))
            .unwrap_or_else(|error| {
                errors
                    .push("development", format!("cannot keep a secret in {DEV_DIR}/{DEV_SECRET}: {error}"));
                String::new()
            }),
        None => {
            if *mode == Mode::Serve {
                errors.push("sharedsecret", "is required: the module sends it in the HTTP header `secret`");
            }
            uuid::Uuid::new_v4().to_string()
        }
    };
    if secret.trim() != secret || secret.contains(char::is_control) {
        let why = "begins or ends with a blank, or holds a control character: no HTTP header carries that";
        errors.push("sharedsecret", why);
    }
    if options.socket_uid.is_some() && options.socket.is_none() {
        errors.push("socket-uid", "has no effect without --socket");
    }
    let lease = options.module_timeout.as_ref();
    let lease = lease.map(|_| errors.duration("module-timeout", &options.module_timeout, Duration::MAX));
    if lease.is_some_and(|lease| lease.is_zero()) {
        errors.push("module-timeout", "must be longer than zero; leave it out to wait without limit");
    }
    let default_port = if mode.starts_modules() { 0 } else { 8080 };
    let ip: Option<IpAddr> = errors.parse("serveraddress", &options.serveraddress, "an IP address");
    let ip = ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
    if !ip.is_loopback() && secret.len() < SHORTEST_SECRET {
        let bytes = secret.len();
        errors.push(
            "sharedsecret",
            format!("has {bytes} bytes, which can be guessed from other machines: take {SHORTEST_SECRET} or more, or listen on a loopback address"),
        );
    }
    let port = errors.parse("serverport", &options.serverport, "a port, 0 to 65535").unwrap_or(default_port);
    Service {
        secret,
        listen: Listen {
            address: SocketAddr::new(ip, port),
            socket: options.socket.as_ref().map(PathBuf::from),
            socket_uid: errors.parse("socket-uid", &options.socket_uid, "a user's number"),
        },
        lease,
        exit_on_done: errors.switch("exit-on-done", &options.exit_on_done).unwrap_or(true),
        linger: errors.duration("linger", &options.linger, Duration::from_secs(2)),
        grace: errors.duration("grace", &options.grace, Duration::from_secs(30)),
    }
}

/// Where inputs are kept for other executions.
fn cache(options: &Options, errors: &mut Errors) -> Option<Cache> {
    let size: Option<ByteSize> = errors.parse("cache-size", &options.cache_size, "a size such as 20GB");
    if size.is_some_and(|size| size < ByteSize::mib(1)) {
        errors.push("cache-size", "less than 1MiB; is the unit missing, as in 20GB?");
    }
    let Some(dir) = &options.cache else {
        if options.cache_size.is_some() {
            errors.push("cache-size", "has no effect without --cache");
        }
        return None;
    };
    let dir = std::path::absolute(dir).map_err(|error| errors.push("cache", error)).ok()?;
    Some(Cache::new(dir, size.unwrap_or(ByteSize::gb(10)).as_u64()))
}

fn settings(
    options: &Options,
    mode: &Mode,
    event_id: Option<EventId>,
    development: bool,
    errors: &mut Errors,
) -> Option<Settings> {
    let pipeline = "pipeline".to_owned();
    let name = match (&options.context_name, mode) {
        (Some(name), _) | (None, Mode::Run { name } | Mode::Worker { name }) => Some(name),
        (None, Mode::Pipeline) => Some(&pipeline),
        (None, Mode::NoEvent) => None,
        (None, Mode::Serve | Mode::OneShot) => {
            errors.push("context.name", "is required: the name of the module");
            None
        }
    };
    let name = name
        .and_then(|name| ModuleName::parse(name).map_err(|error| errors.push("context.name", error)).ok());
    let event_id = match mode {
        Mode::Run { .. } => event_id.or_else(|| Some(EventId::from(uuid::Uuid::new_v4()))),
        // Each event brings its own.
        Mode::Worker { .. } | Mode::Pipeline => Some(EventId::from(uuid::Uuid::nil())),
        Mode::Serve | Mode::OneShot if options.context_eventid.is_none() => {
            errors.push("context.eventid", "is required: the event to process");
            None
        }
        _ => event_id,
    };
    let parallel = errors
        .parse("parallel", &options.parallel, "a number from 1 on")
        .unwrap_or(Settings::DEFAULT_PARALLEL);
    let types = EventTypes::parse(options.valideventtypes.as_deref().unwrap_or_default());
    if options.valideventtypes.is_some() && types == EventTypes::Any {
        errors.push("valideventtypes", "names no type; leave it out to allow any");
    }
    let on_failure = match options.on_failure.as_deref() {
        None | Some("keep") => OnFailure::Keep,
        Some("upload") => OnFailure::Upload,
        Some(other) => {
            errors.push("on-failure", format!("{other:?} is neither keep nor upload"));
            OnFailure::Keep
        }
    };
    let cache = cache(options, errors);
    let (name, event_id) = (name?, event_id?);
    let base = match &options.basedir {
        Some(dir) => PathBuf::from(dir),
        // What a pipeline has written is looked for beside its file, whatever its stores are.
        None if development || *mode == Mode::Pipeline => {
            PathBuf::from(DEV_DIR).join("modules").join(name.as_str())
        }
        None => PathBuf::from(Layout::DEFAULT_BASE),
    };
    let base = std::path::absolute(&base).map_err(|error| errors.push("basedir", error)).ok()?;
    let context = Context {
        correlation_id: options.context_correlationid.clone().unwrap_or_default(),
        parent_event_id: options.context_parenteventid.clone().unwrap_or_default(),
        name,
        event_id,
    };
    let mut settings = Settings::new(context, Layout::new(base));
    settings.traceparent = traceparent();
    if let Some(dir) = &options.statedir {
        settings.state_dir = PathBuf::from(dir);
    }
    settings.event_types = types;
    settings.parallel = parallel;
    settings.on_failure = on_failure;
    settings.cache = cache;
    Some(settings)
}
