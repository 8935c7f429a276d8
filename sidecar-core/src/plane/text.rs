//! The text of URLs.

use url::Url;

#[cfg(feature = "local")]
use std::path::{Path, PathBuf};

/// What needs nothing installed, and is there for each kind of data.
pub(super) enum Embedded {
    /// Readable files under this directory.
    #[cfg(feature = "local")]
    Local(PathBuf),
    /// As long as the process lives.
    #[cfg(feature = "memory")]
    Memory,
}

/// The embedded store that `url` names; for every other scheme, the message for a build without it.
pub(super) fn embedded(url: &str, kind: &str, schemes: &[&str]) -> Result<Embedded, String> {
    match scheme(url)? {
        #[cfg(feature = "local")]
        ("file", rest) if rest.starts_with("///") => Url::parse(url)
            .ok()
            .filter(|url| url.query().is_none() && url.fragment().is_none())
            .and_then(|url| url.to_file_path().ok())
            .map(Embedded::Local)
            .ok_or_else(|| format!("{url:?} names no directory (? and # in a name are %3F and %23)")),
        #[cfg(feature = "local")]
        ("file", rest) if rest.starts_with("//localhost/") => {
            embedded(&format!("file://{}", &rest["//localhost".len()..]), kind, schemes)
        }
        #[cfg(feature = "local")]
        ("file", rest) if rest == "~" || rest.starts_with("~/") => {
            Err(format!("{url:?} begins with ~, which only a shell understands: write the directory in full"))
        }
        #[cfg(feature = "local")]
        ("file", rest) if !rest.is_empty() && !rest.starts_with("//") => Ok(Embedded::Local(rest.into())),
        #[cfg(feature = "local")]
        ("file", _) => Err(format!("{url:?} names no directory: say file:///absolute or file:relative")),
        #[cfg(feature = "memory")]
        ("memory", "") => Ok(Embedded::Memory),
        #[cfg(feature = "memory")]
        ("memory", _) => Err("memory: takes no name: each process has one".into()),
        (known, _) if schemes.contains(&known) || ["file", "memory"].contains(&known) => {
            // The cargo features are called after their schemes, as people say them.
            let feature = match known {
                "file" => "local",
                "az" => "azure",
                "gs" => "gcs",
                "mongodb+srv" => "mongodb",
                "postgresql" => "postgres",
                "tls" => "nats",
                "amqps" => "amqp",
                scheme => scheme,
            };
            Err(format!("this build keeps no {kind} in {known}: URLs; build it with the feature {feature:?}"))
        }
        ("http" | "https", _) if schemes.contains(&"s3") => Err(format!(
            "names a server, not a provider: write for example s3://BUCKET?endpoint={}",
            origin(url)
        )),
        (other, _) => {
            let known = || ["file", "memory"].iter().chain(schemes).copied();
            let all = known().collect::<Vec<_>>().join(":, ");
            let meant = nearest(&other.to_ascii_lowercase(), known());
            let meant = meant.map(|meant| format!(" (did you mean {meant}:?)"));
            Err(format!("{other:?} is not a scheme for {kind}{}; use {all}:", meant.unwrap_or_default()))
        }
    }
}

/// A number of things, as in `1 file` and `2 files`: the plural is formed with an s.
pub fn counted(count: impl TryInto<u64>, what: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The name that was most likely meant by a misspelled one.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let rated = known.map(|known| (strsim::jaro_winkler(known, name), known));
    let (likeness, best) = rated.max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (likeness > ALIKE).then_some(best)
}

/// A URL without what may be a secret: its user, its query and what follows.
pub fn without_credentials(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

/// Whether a name is hardly anything else than another one with a slip of the finger: names that differ in digits alone are
/// two.
pub fn is_misspelling(name: &str, of: &str) -> bool {
    let without_digits = |name: &str| name.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let most = if name.len() < 8 { 1 } else { 2 };
    without_digits(name) != without_digits(of) && strsim::damerau_levenshtein(name, of) <= most
}

/// From this likeness on, a name may be a misspelling of another.
const ALIKE: f64 = 0.85;

/// The server of a URL, without what may be a secret.
fn origin(url: &str) -> String {
    Url::parse(url).map_or_else(|_| "https://HOST".into(), |url| url.origin().ascii_serialization())
}

/// A directory as an absolute `file:` URL.
#[cfg(feature = "local")]
pub(super) fn file_url(dir: &Path) -> String {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    match Url::from_directory_path(&absolute) {
        Ok(url) => url.into(),
        Err(()) => format!("file:{}", dir.display()),
    }
}

/// Refuses a URL whose password ends it early: what follows would be taken for a name, and shown.
pub(super) fn no_stray_credentials(url: &str) -> Result<(), String> {
    let rest = url.split_once(':').map_or(url, |(_, rest)| rest);
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let local = ["file:", "memory:"].iter().any(|scheme| url.starts_with(scheme));
    if !local && !url.contains("://") && url.contains('@') {
        // It is not repeated: what is before the @ may be a password.
        return Err("has no // behind its scheme: write SCHEME://USER@HOST".into());
    }
    match rest.find(['/', '?', '#']) {
        Some(end) if !local && rest[end..].contains('@') => {
            Err("has an @ behind its host: write / ? # @ in a password as %2F %3F %23 %40".into())
        }
        _ => Ok(()),
    }
}

/// An endpoint that can be connected to.
pub(super) fn endpoint(value: String) -> Result<Option<String>, String> {
    match Url::parse(&value) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("has an endpoint with credentials in it: give them apart, where no log shows them".into())
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            Err("has an endpoint with a ? or a #: give what stands behind it apart".into())
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Some(value)),
        // It is not repeated: it may hold a password where it is not looked for.
        _ => Err("has an endpoint that is not a URL: write http://host:port or https://host".into()),
    }
}

/// Refuses variables that no HTTP header can carry; their values are not repeated.
pub(super) fn printable_variables(begin: &str, except: &[&str]) -> Result<(), String> {
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let has_control = value.as_encoded_bytes().iter().any(u8::is_ascii_control);
        if name.starts_with(begin) && has_control && !except.contains(&&*name) {
            return Err(format!("needs {name} without the line end or other control character that it has"));
        }
    }
    Ok(())
}

/// A URL's scheme and what follows.
pub(super) fn scheme(url: &str) -> Result<(&str, &str), String> {
    url.split_once(':').ok_or_else(|| match url.starts_with('/') {
        true => format!("is not a URL: write file://{url}"),
        false => "is not a URL such as file:///some/dir or memory:".into(),
    })
}

/// A URL of a store on the network, with its query apart; `example` shows what it looks like.
pub(super) fn remote(url: &str, example: &str) -> Result<(Url, Vec<(String, String)>), String> {
    // The text may hold a password: it is not repeated.
    let mut root = Url::parse(url).map_err(|error| format!("{error}: say {example}"))?;
    if root.fragment().is_some() {
        return Err("has a #, which ends a URL: write it as %23".into());
    }
    if root.host_str().is_none_or(str::is_empty) {
        return Err(format!("names no host: say {example}"));
    }
    let query = root.query_pairs().into_owned().collect();
    root.set_query(None);
    Ok((root, query))
}

/// A URL of a store on the network as it was given, without its secrets: the password, what NATS takes for a token, and
/// parameters that are called like one.
#[cfg(any(
    feature = "mongodb",
    feature = "postgres",
    feature = "servicebus",
    feature = "nats",
    feature = "amqp"
))]
pub(super) fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user = match user.split_once(':') {
        Some((user, _)) => user,
        None if ["nats", "tls"].contains(&scheme) => "",
        None => user,
    };
    let is_secret = |parameter: &str| {
        let name = parameter.split('=').next().unwrap_or_default().to_ascii_lowercase();
        ["password", "secret", "token", "authmechanismproperties"].iter().any(|secret| name.contains(secret))
    };
    let query: Vec<&str> = query.split('&').filter(|part| !part.is_empty() && !is_secret(part)).collect();
    let at = if user.is_empty() { "" } else { "@" };
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{scheme}://{user}{at}{hosts}{path}{mark}{}", query.join("&"))
}

/// The path of a URL as one name, which is taken out of the URL.
pub(super) fn take_path(url: &mut Url) -> String {
    let path = decoded(url.path().trim_matches('/'));
    url.set_path("");
    path
}

/// Text of a URL with its percent-encoding resolved.
pub(super) fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(all(test, feature = "nats"))]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_as_it_was_given_and_without_its_secrets() {
        for (given, shown_as) in [
            (
                "mongodb://u:p@h1:1,h2/d.c?authSource=d&tls=true",
                "mongodb://u@h1:1,h2/d.c?authSource=d&tls=true",
            ),
            ("mongodb://h/d.c?tlsCertificateKeyFilePassword=p&tls=true", "mongodb://h/d.c?tls=true"),
            ("postgres://u:p%40@h/d?sslmode=require&password=x", "postgres://u@h/d?sslmode=require"),
            ("nats://token@h/s?stream=n", "nats://h/s?stream=n"),
            ("nats://u:p@h/s", "nats://u@h/s"),
            ("amqp://:p@h/x?vhost=v&unroutable=drop", "amqp://h/x?vhost=v&unroutable=drop"),
            ("servicebus://n/t?rule=r", "servicebus://n/t?rule=r"),
        ] {
            assert_eq!(shown(given), shown_as);
        }
    }
}
