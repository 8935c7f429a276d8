//! Every setting: one list, from which flags, environment variables and keys of the configuration file follow.

use clap::{Arg, Args, Command};
use sidecar_core::plane::nearest;

/// Declares the settings as options of text, so that `config` can judge them all at once.
macro_rules! options {
    ($($heading:literal { $($(#[$doc:meta])+ $field:ident: $long:literal = $value:literal,)+ })+) => {
        /// The text given for each setting. Deliberately without `Debug`: some are secrets.
        #[derive(Clone, Default, Args)]
        pub(crate) struct Options {
            $($(
                $(#[$doc])+
                #[arg(long = $long, value_name = $value, help_heading = $heading, global = true)]
                pub(crate) $field: Option<String>,
            )+)+
        }

        /// Every setting, with what the help calls its value.
        const VALUES: &[(&str, &str)] = &[$($(($long, $value),)+)+];

        impl Options {
            /// Every setting.
            pub(crate) fn all(&self) -> impl Iterator<Item = &Option<String>> {
                [$($(&self.$field,)+)+].into_iter()
            }

            /// Every setting that has a value, by its flag.
            pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
                [$($(($long, &self.$field),)+)+]
                    .into_iter()
                    .filter_map(|(flag, value)| Some((flag, value.as_deref()?)))
            }

            /// Every setting, to be changed in place.
            pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Option<String>> {
                [$($(&mut self.$field,)+)+].into_iter()
            }
        }
    };
}

impl Options {
    /// The settings that a file can hold instead: the flag, its value, and the file.
    pub(crate) fn in_files(&mut self) -> [(&'static str, &mut Option<String>, &mut Option<String>); 9] {
        macro_rules! in_files {
            ($($flag:literal: $value:ident, $file:ident;)+) => {
                [$(($flag, &mut self.$value, &mut self.$file)),+]
            };
        }
        in_files! {
            "sharedsecret": sharedsecret, sharedsecret_file;
            "documents": documents, documents_file;
            "events": events, events_file;
            "azureblobprovider.blobaccountkey": azureblobprovider_blobaccountkey, azureblobprovider_blobaccountkey_file;
            "azureblobprovider.sas": azureblobprovider_sas, azureblobprovider_sas_file;
            "azureblobprovider.connectionstring": azureblobprovider_connectionstring, azureblobprovider_connectionstring_file;
            "s3.secretaccesskey": s3_secretaccesskey, s3_secretaccesskey_file;
            "mongodbdocprovider.password": mongodbdocprovider_password, mongodbdocprovider_password_file;
            "servicebuseventprovider.key": servicebuseventprovider_key, servicebuseventprovider_key_file;
        }
    }
}

/// What kind of value a setting takes, as the help calls it; nothing for one that is none.
pub(crate) fn value_of(flag: &str) -> &'static str {
    VALUES.iter().find(|(name, _)| *name == flag).map_or("", |(_, value)| value)
}

/// What makes a flag a switch: `--flag` is `--flag=true`.
const SWITCH: &str = "BOOL";

/// Variables that the module sees under the same name.
const SHARED: [(&str, &str); 3] =
    [("sharedsecret", "SHARED_SECRET"), ("serverport", "SIDECAR_PORT"), ("basedir", "SIDECAR_BASE_DIR")];

/// Gives every setting its environment variable, and every switch its short form.
pub(crate) fn complete(command: Command) -> Command {
    command.mut_args(|argument| {
        let Some(long) = argument.get_long() else { return argument };
        let shared = SHARED.iter().find(|(flag, _)| *flag == long);
        let variable = shared.map_or_else(
            || format!("SIDECAR_{}", long.replace(['.', '-'], "_").to_uppercase()),
            |(_, variable)| (*variable).to_owned(),
        );
        let switch = |argument: &Arg| {
            argument.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == SWITCH))
        };
        // Those that are no setting: flags of one command.
        if argument.get_help_heading().is_none() {
            return argument;
        }
        let argument = argument.env(variable).hide_env_values(true);
        if switch(&argument) {
            return argument.num_args(0..=1).require_equals(true).default_missing_value("true");
        }
        argument
    })
}

/// The variables that this process has and no setting is read from, each with the name that was most likely meant.
///
/// What Kubernetes makes of a Service called sidecar is no mistake, nor is what the sidecar itself gives to modules.
pub(crate) fn unknown_variables(command: &Command) -> Vec<(String, Option<String>)> {
    let known: Vec<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned))
        .collect();
    let of_kubernetes = |name: &str| {
        name == "SIDECAR_SERVICE_HOST"
            || name.starts_with("SIDECAR_SERVICE_PORT")
            || name
                .strip_prefix("SIDECAR_PORT_")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let for_modules = ["SIDECAR_EVENT_ID", "SIDECAR_CORRELATION_ID", "SIDECAR_MODULE_NAME"];
    let of_tests = |name: &str| name.starts_with("SIDECAR_TEST_") || name.starts_with("SIDECAR_FAULT_");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = names.filter(|name| {
        name.starts_with("SIDECAR_")
            && !known.contains(name)
            && !of_kubernetes(name)
            && !for_modules.contains(&&**name)
            && !of_tests(name)
    });
    let known_end = |name: &str| {
        let end = name.trim_start_matches("SIDECAR").to_owned();
        known.iter().find(|known| known.ends_with(&end)).cloned()
    };
    let nearest = |name: &str| {
        // The one that is not called like the others.
        if ["SIDECAR_SHAREDSECRET", "SIDECAR_SHARED_SECRET"].contains(&name) {
            return Some("SHARED_SECRET".to_owned());
        }
        known_end(name).or_else(|| nearest(name, known.iter().map(String::as_str)).map(str::to_owned))
    };
    unknown.map(|name| (name.clone(), nearest(&name))).collect()
}

options! {
    "Context" {
        /// The event to process [default: `run` creates the first event of a graph]
        context_eventid: "context.eventid" = "ID",
        /// The id that all events of one graph share [default: taken from the event, else its id]
        context_correlationid: "context.correlationid" = "ID",
        /// The event whose processing published this one [default: taken from the event]
        context_parenteventid: "context.parenteventid" = "ID",
        /// Accept an event id that has no event context, as the first event of a graph has none; implied by --development=true
        first: "first" = "BOOL",
        /// The module's name [default: `run` takes the name of the command]
        context_name: "context.name" = "NAME",
    }
    "Module" {
        /// The directory that sidecar and module share [default: /ion]
        basedir: "basedir" = "DIR",
        /// The directory of the journal [default: .sidecar in the base directory]
        statedir: "statedir" = "DIR",
        /// The event types that the module may publish, comma-separated [default: any]
        valideventtypes: "valideventtypes" = "LIST",
        /// The longest time between two calls of a module; with `run --wrap`, the longest run [default: unlimited]
        module_timeout: "module-timeout" = "DURATION",
        /// The user id of the module; `run` starts the module as this user [default: the sidecar's]
        module_uid: "module-uid" = "UID",
        /// The group id of the module [default: the same number as --module-uid]
        module_gid: "module-gid" = "GID",
        /// Environment variables that `run` passes to the module although they hold a store's credentials, comma-separated
        module_env: "module-env" = "NAMES",
        /// Abandon a commit that an earlier start left undecided
        give_up: "give-up" = "BOOL",
        /// What happens to the outputs of a failed module: keep (on disk, except under `worker`), upload [default: keep]
        on_failure: "on-failure" = "WHAT",
    }
    "Server" {
        /// The secret that the module sends in the HTTP header `secret` [default: `run` creates one]
        sharedsecret: "sharedsecret" = "SECRET",
        /// A file that holds the shared secret
        sharedsecret_file: "sharedsecret-file" = "FILE",
        /// The TCP port to listen on [default: 8080; a free one under `run`, `worker` and `pipeline`]
        serverport: "serverport" = "PORT",
        /// The IP address to listen on [default: 127.0.0.1]
        serveraddress: "serveraddress" = "IP",
        /// A unix socket to listen on as well
        socket: "socket" = "PATH",
        /// The user id that may use the unix socket, besides root [default: the sidecar's]
        socket_uid: "socket-uid" = "UID",
        /// Exit after a successful /done [default: true]
        exit_on_done: "exit-on-done" = "BOOL",
        /// How long the sidecar answers repeated calls before it exits [default: 2s]
        linger: "linger" = "DURATION",
        /// How long a running commit may continue after SIGTERM [default: 30s]
        grace: "grace" = "DURATION",
    }
    "Blobs" {
        /// The blob provider, for files: file:///DIR, memory:, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX
        blobs: "blobs" = "URL",
        /// The access key id for s3: [default: from the environment, or the machine's role]
        s3_accesskeyid: "s3.accesskeyid" = "ID",
        /// The secret access key for s3:
        s3_secretaccesskey: "s3.secretaccesskey" = "SECRET",
        /// A file that holds the secret access key for s3:
        s3_secretaccesskey_file: "s3.secretaccesskey-file" = "FILE",
        /// Stores whose objects events may refer to (submit --reference), as in s3://BUCKET/PREFIX,file:///DIR; they are only read [default: none]
        references: "references" = "URLS",
        /// How long the signed URIs in in/meta.json are valid [default: 1h]
        uri_expiry: "uri-expiry" = "DURATION",
        /// A directory that keeps inputs by their digest for all sidecars of this machine [default: none]
        cache: "cache" = "DIR",
        /// The most that --cache holds, as in 20GB: what was used longest ago goes first [default: 10GB]
        cache_size: "cache-size" = "SIZE",
    }
    "Documents" {
        /// The document provider, for records, event contexts and insights: file:///DIR, memory:, mongodb://HOST/DATABASE.COLLECTION or postgres://USER@HOST/DATABASE?table=PREFIX
        documents: "documents" = "URL",
        /// A file that holds the URL of --documents, for a URL with a password
        documents_file: "documents-file" = "FILE",
    }
    "Events" {
        /// The event provider: file:///DIR, memory:, nats://HOST/SUBJECT?stream=NAME&subjects=type, amqp://HOST/EXCHANGE or servicebus://NAMESPACE/TOPIC?rule=NAME
        events: "events" = "URL",
        /// A file that holds the URL of --events, for a URL with a password
        events_file: "events-file" = "FILE",
        /// The format of events on the bus: ion, cloudevents [default: ion]
        event_format: "event-format" = "FORMAT",
    }
    "Calls" {
        /// How long a provider may leave a call unanswered, or a transfer without progress [default: 1m]
        timeout: "timeout" = "DURATION",
        /// How long a call to an unavailable provider is retried [default: 1m]
        retry_for: "retry-for" = "DURATION",
        /// Consecutive failures after which calls to a provider pause for one second; 0 disables this [default: 5]
        circuit_breaker: "circuit-breaker" = "N",
        /// The maximum number of calls per second to each provider [default: unlimited]
        rate_limit: "rate-limit" = "N",
        /// The number of files transferred at the same time [default: 16]
        parallel: "parallel" = "N",
        /// A PEM file of certificates to trust besides the system's
        ca_file: "ca-file" = "FILE",
    }
    "Ion" {
        /// Store files in Azure Blob Storage
        azureblobprovider: "azureblobprovider" = "BOOL",
        /// The storage account for blobs
        azureblobprovider_blobaccountname: "azureblobprovider.blobaccountname" = "NAME",
        /// The access key of the storage account
        azureblobprovider_blobaccountkey: "azureblobprovider.blobaccountkey" = "KEY",
        /// A file that holds the access key of the storage account
        azureblobprovider_blobaccountkey_file: "azureblobprovider.blobaccountkey-file" = "FILE",
        /// A shared access signature for the storage account, instead of its key
        azureblobprovider_sas: "azureblobprovider.sas" = "SAS",
        /// A file that holds the shared access signature
        azureblobprovider_sas_file: "azureblobprovider.sas-file" = "FILE",
        /// The connection string of the storage account, as the Azure portal shows it
        azureblobprovider_connectionstring: "azureblobprovider.connectionstring" = "TEXT",
        /// A file that holds the connection string of the storage account
        azureblobprovider_connectionstring_file: "azureblobprovider.connectionstring-file" = "FILE",
        /// The blob container
        azureblobprovider_containername: "azureblobprovider.containername" = "NAME",
        /// Store documents in MongoDB or Azure Cosmos DB
        mongodbdocprovider: "mongodbdocprovider" = "BOOL",
        /// The Cosmos DB account, which is also the name of the database
        mongodbdocprovider_name: "mongodbdocprovider.name" = "NAME",
        /// The password of the Cosmos DB account
        mongodbdocprovider_password: "mongodbdocprovider.password" = "PASSWORD",
        /// A file that holds the password of the Cosmos DB account
        mongodbdocprovider_password_file: "mongodbdocprovider.password-file" = "FILE",
        /// The collection for documents
        mongodbdocprovider_collection: "mongodbdocprovider.collection" = "NAME",
        /// The port of the Cosmos DB account [default: 10255]
        mongodbdocprovider_port: "mongodbdocprovider.port" = "PORT",
        /// Publish events to Azure Service Bus
        servicebuseventprovider: "servicebuseventprovider" = "BOOL",
        /// The Service Bus namespace
        servicebuseventprovider_namespace: "servicebuseventprovider.namespace" = "NAME",
        /// The Service Bus topic
        servicebuseventprovider_topic: "servicebuseventprovider.topic" = "NAME",
        /// The key of the Service Bus authorization rule
        servicebuseventprovider_key: "servicebuseventprovider.key" = "KEY",
        /// A file that holds the key of the authorization rule
        servicebuseventprovider_key_file: "servicebuseventprovider.key-file" = "FILE",
        /// The Service Bus authorization rule
        servicebuseventprovider_authorizationrulename: "servicebuseventprovider.authorizationrulename" = "NAME",
    }
    "Program" {
        /// Keep files, documents, events and the secret in ./dev; needs no server
        development: "development" = "BOOL",
        /// A TOML file of settings; flags and environment variables take precedence
        config: "config" = "FILE",
        /// Print the effective settings without secrets, then continue
        printconfig: "printconfig" = "BOOL",
        /// The log level: error, warn, info, debug or trace [default: info]
        loglevel: "loglevel" = "LEVEL",
        /// What the log looks like: text for people, or json, one object a line [default: text]
        log_format: "log-format" = "FORMAT",
        /// A file for the log [default: standard error]
        logfile: "logfile" = "FILE",
    }
}
