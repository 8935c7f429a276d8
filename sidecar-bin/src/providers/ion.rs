//! The original's switches: each is another spelling of a URL.

use crate::config::Errors;
use crate::options::Options;

/// Which of them are on, and whether everything is there that they need.
#[derive(Debug)]
pub(super) struct Switches {
    pub(super) azure: Option<bool>,
    pub(super) mongodb: Option<bool>,
    pub(super) servicebus: Option<bool>,
}

/// One switch with the flags that it needs.
struct Switch<'o> {
    flag: &'static str,
    enabled: &'o Option<String>,
    /// The flag that says the same as a URL.
    replaces: &'static str,
    url: &'o Option<String>,
    /// The scheme of that URL, for which the flags are credentials.
    scheme: &'static str,
    required: Vec<(&'static str, &'o Option<String>)>,
}

/// Which switches are on; what is missing or contradicts goes to `errors`.
pub(super) fn switches(options: &Options, errors: &mut Errors) -> Switches {
    let mut on = |switch: &Switch<'_>| on(switch, errors);
    Switches {
        azure: on(&Switch {
            flag: "azureblobprovider",
            enabled: &options.azureblobprovider,
            replaces: "blobs",
            url: &options.blobs,
            scheme: "az:",
            required: azure(options),
        }),
        mongodb: on(&Switch {
            flag: "mongodbdocprovider",
            enabled: &options.mongodbdocprovider,
            replaces: "documents",
            url: &options.documents,
            scheme: "mongodb",
            required: vec![
                ("mongodbdocprovider.name", &options.mongodbdocprovider_name),
                ("mongodbdocprovider.password", &options.mongodbdocprovider_password),
                ("mongodbdocprovider.collection", &options.mongodbdocprovider_collection),
            ],
        }),
        servicebus: on(&Switch {
            flag: "servicebuseventprovider",
            enabled: &options.servicebuseventprovider,
            replaces: "events",
            url: &options.events,
            scheme: "servicebus:",
            required: vec![
                ("servicebuseventprovider.namespace", &options.servicebuseventprovider_namespace),
                ("servicebuseventprovider.topic", &options.servicebuseventprovider_topic),
                ("servicebuseventprovider.key", &options.servicebuseventprovider_key),
                (
                    "servicebuseventprovider.authorizationrulename",
                    &options.servicebuseventprovider_authorizationrulename,
                ),
            ],
        }),
    }
}

/// A connection string says the account and how to get in, a signature how to get in.
fn azure(options: &Options) -> Vec<(&'static str, &Option<String>)> {
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

fn on(switch: &Switch<'_>, errors: &mut Errors) -> Option<bool> {
    if errors.switch(switch.flag, switch.enabled) != Some(true) {
        // With a URL of the same provider they are its credentials.
        let same = switch.url.as_ref().is_some_and(|url| url.starts_with(switch.scheme));
        if let Some((flag, _)) = switch.required.iter().find(|(_, value)| value.is_some() && !same) {
            errors.push(flag, format!("has no effect without --{}=true", switch.flag));
        }
        return None;
    }
    if switch.url.is_some() {
        let replaces = switch.replaces;
        errors
            .push(switch.flag, format!("says where {replaces} go, and so does --{replaces}: leave one out"));
    }
    for (flag, value) in &switch.required {
        if value.is_none() {
            errors.push(flag, format!("is required by --{}", switch.flag));
        }
    }
    // What is missing was told; nothing more can be told of the rest.
    Some(switch.required.iter().all(|(_, value)| value.is_some()))
}
