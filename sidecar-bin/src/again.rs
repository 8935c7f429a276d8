//! This command line once more, for whoever pastes it, and without secrets.

use sidecar_core::Context;

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), std::borrow::Cow::into_owned)
}

/// Flags whose values are secrets, or may hold one.
const SECRETS: [&str; 9] = [
    "--sharedsecret",
    "--documents",
    "--events",
    "--s3.secretaccesskey",
    "--azureblobprovider.blobaccountkey",
    "--azureblobprovider.sas",
    "--azureblobprovider.connectionstring",
    "--mongodbdocprovider.password",
    "--servicebuseventprovider.key",
];

/// Whether the value of a flag, without its dashes, is a secret or may hold one.
pub(crate) fn secret(flag: &str) -> bool {
    SECRETS.iter().any(|secret| secret.strip_prefix("--") == Some(flag))
}

/// This command line with another command, which is to be pasted into a shell where this one was started.
///
/// A secret is replaced by an ellipsis; what came from the environment or a file still does.
pub(crate) fn again(command: &str, context: &Context) -> String {
    let mut words = vec![command.to_owned()];
    let mut given = std::env::args().skip(1).peekable();
    let commands = ["run", "prepare", "commit"];
    while let Some(word) = given.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word.clone(), None),
        };
        match &*flag {
            "--" => break,
            "--wrap" | "--rerun" | "--context.name" | "--context.eventid" => {
                // The ids are written below, once.
                if inline.is_none() && flag.starts_with("--context") {
                    given.next();
                }
            }
            word if commands.contains(&word) => {}
            _ => {
                let value = inline.or_else(|| {
                    given.next_if(|next| {
                        flag.starts_with("--") && !next.starts_with('-') && !commands.contains(&&**next)
                    })
                });
                words.push(shown(flag, value));
            }
        }
    }
    words.push(format!("--context.name={}", quoted(context.name.as_str())));
    words.push(format!("--context.eventid={}", quoted(context.event_id.as_str())));
    format!("sidecar {}", words.join(" "))
}

/// The settings that name the data plane; what belongs to them follows a dot, or is `-file`.
const PLANE: [&str; 9] = [
    "blobs",
    "documents",
    "events",
    "s3",
    "azureblobprovider",
    "mongodbdocprovider",
    "servicebuseventprovider",
    "development",
    "config",
];

/// The flags of this command line that name its data plane, each after a blank; without secrets.
pub(crate) fn plane_flags() -> String {
    let mut flags = String::new();
    let mut given = std::env::args().skip(1).peekable();
    while let Some(word) = given.next().filter(|word| word != "--") {
        let (flag, mut value) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        let Some(name) = flag.strip_prefix("--") else { continue };
        let begins = |known: &str| match name.strip_prefix(known) {
            Some(rest) => rest.is_empty() || rest == "-file" || rest.starts_with('.'),
            None => false,
        };
        if !PLANE.iter().any(|known| begins(known)) {
            continue;
        }
        // A switch has its value behind an equals sign.
        if value.is_none() && crate::options::value_of(name) != "BOOL" {
            value = given.next();
        }
        flags.push(' ');
        flags.push_str(&shown(flag, value));
    }
    flags
}

/// A flag with its value, as a shell takes it and without a secret.
fn shown(flag: String, value: Option<String>) -> String {
    match value {
        Some(value) if SECRETS.contains(&&*flag) && !harmless(&value) => format!("{flag}=…"),
        Some(value) => format!("{flag}={}", quoted(&value)),
        None => flag,
    }
}

/// Whether a URL holds no password.
fn harmless(value: &str) -> bool {
    value.contains(':') && !value.contains('@')
}
