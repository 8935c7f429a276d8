//! The original's switches: each is another spelling of a URL, and its flags hold what a URL does not.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::errors::Errors;
use crate::options::Options;

/// What is encoded in a part of a URL.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a switch says.
#[derive(Debug)]
pub(crate) enum Switch {
    Off,
    /// It is on, and what it lacks has been reported.
    Incomplete,
    /// It is on, and this is the URL in other words.
    On {
        url: String,
    },
}

/// The three switches.
#[derive(Debug)]
pub(crate) struct Switches {
    pub(crate) azure: Switch,
    pub(crate) mongodb: Switch,
    pub(crate) servicebus: Switch,
}

/// One switch with the flags that it needs.
struct Flags<'o> {
    switch: (&'static str, &'o Option<String>),
    /// The flag that says the same as a URL.
    replaces: (&'static str, &'o Option<String>),
    /// The scheme of that URL, for which the flags are credentials.
    scheme: &'static str,
    required: Vec<(&'static str, &'o Option<String>)>,
}

/// What the switches say; what is missing or contradicts goes to `errors`.
pub(crate) fn switches(options: &Options, errors: &mut Errors) -> Switches {
    if let Some(port) = options.mongodbdocprovider_port.as_ref().filter(|port| port.parse::<u16>().is_err()) {
        errors.push("mongodbdocprovider.port", format!("{port:?} is not a port number"));
    }
    let azure = Flags {
        switch: ("azureblobprovider", &options.azureblobprovider),
        replaces: ("blobs", &options.blobs),
        scheme: "az:",
        required: azure_flags(options),
    };
    let mongodb = Flags {
        switch: ("mongodbdocprovider", &options.mongodbdocprovider),
        replaces: ("documents", &options.documents),
        scheme: "mongodb",
        required: vec![
            ("mongodbdocprovider.name", &options.mongodbdocprovider_name),
            ("mongodbdocprovider.password", &options.mongodbdocprovider_password),
            ("mongodbdocprovider.collection", &options.mongodbdocprovider_collection),
        ],
    };
    let rule = &options.servicebuseventprovider_authorizationrulename;
    let servicebus = Flags {
        switch: ("servicebuseventprovider", &options.servicebuseventprovider),
        replaces: ("events", &options.events),
        scheme: "servicebus:",
        required: vec![
            ("servicebuseventprovider.namespace", &options.servicebuseventprovider_namespace),
            ("servicebuseventprovider.topic", &options.servicebuseventprovider_topic),
            ("servicebuseventprovider.key", &options.servicebuseventprovider_key),
            ("servicebuseventprovider.authorizationrulename", rule),
        ],
    };
    Switches {
        azure: read(&azure, || azure_url(options), errors),
        mongodb: read(&mongodb, || mongodb_url(options), errors),
        servicebus: read(&servicebus, || servicebus_url(options), errors),
    }
}

/// A connection string says the account and how to get in, a signature how to get in.
fn azure_flags(options: &Options) -> Vec<(&'static str, &Option<String>)> {
    let connection = options.azureblobprovider_connectionstring.is_some();
    let signature = connection || options.azureblobprovider_sas.is_some();
    let mut required = vec![("azureblobprovider.containername", &options.azureblobprovider_containername)];
    if !connection {
        required.push(("azureblobprovider.blobaccountname", &options.azureblobprovider_blobaccountname));
    }
    if !signature {
        required.push(("azureblobprovider.blobaccountkey", &options.azureblobprovider_blobaccountkey));
    }
    required
}

fn azure_url(options: &Options) -> String {
    format!("az://{}/", options.azureblobprovider_containername.as_deref().unwrap_or_default())
}

/// The account of Cosmos DB is the user and the database too.
fn mongodb_url(options: &Options) -> String {
    let account = part(&options.mongodbdocprovider_name);
    let port = options.mongodbdocprovider_port.as_deref().unwrap_or("10255");
    let collection = part(&options.mongodbdocprovider_collection);
    // The original's `documents.azure.com` serves version 3.2 alone, which no driver of today speaks.
    let host = format!("{account}.mongo.cosmos.azure.com:{port}");
    // Cosmos DB speaks TLS only and takes no retryable writes.
    let settings = "tls=true&replicaSet=globaldb&retryWrites=false";
    format!("mongodb://{account}@{host}/{account}.{collection}?{settings}")
}

fn servicebus_url(options: &Options) -> String {
    let namespace = part(&options.servicebuseventprovider_namespace);
    let topic = part(&options.servicebuseventprovider_topic);
    let rule = part(&options.servicebuseventprovider_authorizationrulename);
    format!("servicebus://{namespace}/{topic}?rule={rule}")
}

fn part(option: &Option<String>) -> String {
    utf8_percent_encode(option.as_deref().unwrap_or_default(), PART).to_string()
}

fn read(flags: &Flags<'_>, url: impl Fn() -> String, errors: &mut Errors) -> Switch {
    let Flags { switch: (switch, value), replaces: (replaces, replaced), scheme, required } = flags;
    if errors.switch(switch, value) != Some(true) {
        // With a URL of the same provider they are its credentials.
        let same = replaced.as_ref().is_some_and(|url| url.starts_with(scheme));
        if let Some((flag, _)) = required.iter().find(|(_, value)| value.is_some() && !same) {
            errors.push(flag, format!("has no effect without --{switch}=true, or --{replaces}={scheme}…"));
        }
        return Switch::Off;
    }
    if replaced.is_some() {
        errors.push(switch, format!("says where {replaces} go, and so does --{replaces}: leave one out"));
    }
    let missing: Vec<_> = required.iter().filter(|(_, value)| value.is_none()).collect();
    for (flag, _) in &missing {
        errors.push(flag, format!("is required by --{switch}"));
    }
    if missing.is_empty() { Switch::On { url: url() } } else { Switch::Incomplete }
}
