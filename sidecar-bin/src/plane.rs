//! The data plane that the settings name: flags and secrets become what the core builds it from.

use std::num::NonZeroU32;
use std::path::PathBuf;

use sidecar_core::plane::{Config, Credential, Policies, Setting, Unopened};
use sidecar_core::process::hidden_variables;

use crate::errors::Errors;
use crate::ion::{self, Switch};
use crate::options::Options;

/// Where development mode keeps everything.
pub(crate) const DEV_DIR: &str = "dev";

/// A data plane that can be opened, and what is printed of it.
#[derive(Debug)]
pub(crate) struct Plane {
    pub(crate) unopened: Unopened,
    /// The variables that a module does not inherit: the sidecar's settings, and where its stores' credentials are.
    pub(crate) hidden: Vec<String>,
    policies: Policies,
    uri_expiry: std::time::Duration,
}

impl Plane {
    /// The data plane that `options` name; what is wrong goes to `errors`.
    pub(crate) fn parse(options: &Options, development: bool, errors: &mut Errors) -> Option<Self> {
        let switches = ion::switches(options, errors);
        let [blobs, documents, events] = [
            ("blobs", &options.blobs, &switches.azure),
            ("documents", &options.documents, &switches.mongodb),
            ("events", &options.events, &switches.servicebus),
        ]
        .map(|(flag, url, ion)| url_of(flag, url, ion, development, errors));
        // What is missing has been reported: the others are still looked at.
        let or_memory = |url: &Option<String>| url.clone().unwrap_or_else(|| "memory:".into());
        let mut config = Config::new(or_memory(&blobs), or_memory(&documents), or_memory(&events));
        config.event_format =
            errors.parse("event-format", &options.event_format, "ion or cloudevents").unwrap_or_default();
        let listed = options.references.iter().flat_map(|urls| urls.split(',')).map(str::trim);
        config.references = listed.filter(|url| !url.is_empty()).map(str::to_owned).collect();
        for (flag, value, scheme, url) in [
            ("s3.accesskeyid", &options.s3_accesskeyid, "s3:", &blobs),
            ("s3.secretaccesskey", &options.s3_secretaccesskey, "s3:", &blobs),
        ] {
            let mut urls = url.iter().chain(&config.references);
            if value.is_some() && url.is_some() && !urls.any(|url| url.starts_with(scheme)) {
                errors.push(flag, format!("has no effect: --blobs names no {scheme} store"));
            }
        }
        config.policies = policies(options, errors);
        config.uri_expiry = errors.duration("uri-expiry", &options.uri_expiry, config.uri_expiry);
        config.ca_file = options.ca_file.as_ref().map(PathBuf::from);
        let parsed = config.parse(|credential| credential_in(options, credential)).map_err(|mistakes| {
            for mistake in mistakes {
                let file = mistake.missing.and_then(flag);
                // What is missing because its file could not be read is reported already.
                if file.is_some_and(|flag| errors.has(flag)) {
                    continue;
                }
                let hint = file.map(|flag| format!(": say --{flag}")).unwrap_or_default();
                let flag = mistake.setting.to_string();
                let in_file = match mistake.setting {
                    Setting::Documents => options.documents_file.as_ref().zip(documents.as_ref()),
                    Setting::Events => options.events_file.as_ref().zip(events.as_ref()),
                    _ => None,
                };
                // Where both are given, it is the flag that is looked at.
                let in_file = in_file.filter(|_| !errors.has(&format!("{flag}-file")));
                match in_file {
                    Some((file, url)) if repeats(&mistake.problem, url) => errors.push(
                        &format!("{flag}-file"),
                        format!(
                            "{file} holds no URL that can be used (sidecar help settings {flag} lists them)"
                        ),
                    ),
                    Some(_) => errors.push(&format!("{flag}-file"), format!("{}{hint}", mistake.problem)),
                    None => errors.push(&flag, format!("{}{hint}", mistake.problem)),
                }
            }
        });
        let let_through = options.module_env.as_deref().unwrap_or_default();
        let urls = [&config.blobs, &config.documents, &config.events].into_iter().chain(&config.references);
        let hidden = hidden_variables(urls.map(|url| &**url), let_through);
        let Config { policies, uri_expiry, .. } = config;
        let all_given = blobs.is_some() && documents.is_some() && events.is_some();
        let unopened = parsed.ok().filter(|_| all_given)?;
        Some(Self { unopened, hidden, policies, uri_expiry })
    }

    /// The settings in force, by their flags, without secrets.
    pub(crate) fn describe(&self) -> Vec<(&'static str, String)> {
        let [(_, blobs), (_, documents), (_, events)] = self.unopened.urls();
        let time = |time: std::time::Duration| humantime::format_duration(time).to_string();
        let Policies { timeout, retry_for, failures, per_second } = self.policies;
        let mut lines = vec![
            ("blobs", blobs.to_owned()),
            ("documents", documents.to_owned()),
            ("events", events.to_owned()),
            ("uri-expiry", time(self.uri_expiry)),
            ("timeout", time(timeout)),
            ("retry-for", time(retry_for)),
            ("circuit-breaker", failures.map_or(0, NonZeroU32::get).to_string()),
        ];
        let references: Vec<_> = self.unopened.references().collect();
        lines.extend((!references.is_empty()).then(|| ("references", references.join(","))));
        lines.extend(per_second.map(|calls| ("rate-limit", calls.to_string())));
        lines
    }
}

/// Where one kind of data goes: where the URL says, where the original's switch says, or in the directory of
/// development mode. `None` once it has been reported that nothing says so.
fn url_of(
    flag: &str,
    url: &Option<String>,
    ion: &Switch,
    development: bool,
    errors: &mut Errors,
) -> Option<String> {
    let unread = format!("{flag}-file");
    match (url, ion) {
        (Some(url), _) => Some(url.clone()),
        (None, Switch::Incomplete) => None,
        (None, _) if errors.has(&unread) => None,
        (None, Switch::On { url }) => Some(url.clone()),
        (None, Switch::Off) if development => Some(format!("file:{DEV_DIR}")),
        (None, Switch::Off) => {
            errors.push(flag, format!("is required; say --{flag} file:///some/dir, or --development=true"));
            None
        }
    }
}

/// Whether a message has a word of a text that was kept in a file, and so may be a secret.
fn repeats(message: &str, secret: &str) -> bool {
    let scheme = secret.split(':').next().unwrap_or_default();
    let is_scheme =
        ["mongodb", "postgres", "postgresql", "nats", "amqp", "amqps", "servicebus", "file", "memory"];
    // The names of parameters are none, where they cannot be part of a password.
    let parameters: Vec<&str> = match secret.rsplit_once('?') {
        Some((_, query)) if !query.contains('@') => {
            query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name).collect()
        }
        _ => Vec::new(),
    };
    let words = secret.split(|c: char| !c.is_alphanumeric()).filter(|word| word.len() > 2);
    let words = words.filter(|word| !parameters.contains(word));
    words.filter(|word| *word != scheme || !is_scheme.contains(word)).any(|word| message.contains(word))
}

fn policies(options: &Options, errors: &mut Errors) -> Policies {
    let default = Policies::default();
    let failures = errors.parse("circuit-breaker", &options.circuit_breaker, "a number of failures");
    Policies {
        timeout: errors.duration("timeout", &options.timeout, default.timeout),
        retry_for: errors.duration("retry-for", &options.retry_for, default.retry_for),
        failures: failures.map_or(default.failures, NonZeroU32::new),
        per_second: errors.parse("rate-limit", &options.rate_limit, "a number of calls a second, from 1 on"),
    }
}

fn credential_in(options: &Options, credential: Credential) -> Option<String> {
    match credential {
        Credential::S3AccessKeyId => &options.s3_accesskeyid,
        Credential::S3SecretAccessKey => &options.s3_secretaccesskey,
        Credential::AzureAccount => &options.azureblobprovider_blobaccountname,
        Credential::AzureKey => &options.azureblobprovider_blobaccountkey,
        Credential::AzureSas => &options.azureblobprovider_sas,
        Credential::AzureConnectionString => &options.azureblobprovider_connectionstring,
        Credential::MongoPassword => &options.mongodbdocprovider_password,
        Credential::ServiceBusRule => &options.servicebuseventprovider_authorizationrulename,
        Credential::ServiceBusKey => &options.servicebuseventprovider_key,
        _ => &None,
    }
    .clone()
}

/// The flag that gives a missing credential.
fn flag(credential: Credential) -> Option<&'static str> {
    match credential {
        Credential::S3AccessKeyId => Some("s3.accesskeyid"),
        Credential::S3SecretAccessKey => Some("s3.secretaccesskey-file"),
        Credential::ServiceBusKey => Some("servicebuseventprovider.key-file"),
        _ => None,
    }
}
