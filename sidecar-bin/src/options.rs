//! Every setting: one list, from which flags, environment variables and keys of the configuration file follow.

use clap::{Arg, Args, Command};

/// Declares the settings as options of text, so that `config` can judge them all at once.
macro_rules! options {
    ($($heading:literal { $($(#[$doc:meta])+ $field:ident: $long:literal = $value:literal,)+ })+) => {
        /// What was said of each setting. Deliberately without `Debug`: some are secrets.
        #[derive(Clone, Default, Args)]
        pub(crate) struct Options {
            $($(
                $(#[$doc])+
                #[arg(long = $long, value_name = $value, help_heading = $heading, global = true)]
                pub(crate) $field: Option<String>,
            )+)+
        }

        impl Options {
            /// Every setting, to be mended where it stands.
            pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Option<String>> {
                [$($(&mut self.$field,)+)+].into_iter()
            }
        }
    };
}

impl Options {
    /// The settings that a file can hold instead: the flag, its value, and the file.
    pub(crate) fn in_files(&mut self) -> [(&'static str, &mut Option<String>, &Option<String>); 9] {
        macro_rules! in_files {
            ($($flag:literal: $value:ident, $file:ident;)+) => {
                [$(($flag, &mut self.$value, &self.$file)),+]
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
    let nearest = |name: &str| {
        let likeness = |known: &&String| strsim::jaro_winkler(known, name);
        let best = known.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
        (likeness(&best) > ALIKE).then(|| best.clone())
    };
    unknown.map(|name| (name.clone(), nearest(&name))).collect()
}

/// From this likeness on one name may be meant by another.
const ALIKE: f64 = 0.9;

options! {
    "Context" {
        /// The event being processed; `run` makes one up for the first event of a graph
        context_eventid: "context.eventid" = "ID",
        /// Shared by all events of one graph [default: what the event says, or its id]
        context_correlationid: "context.correlationid" = "ID",
        /// The event that led to this one [default: where that is not given either, what the event says]
        context_parenteventid: "context.parenteventid" = "ID",
        /// The event begins a graph and needs no context; so it is in development mode, and with an empty
        /// --context.parenteventid
        first: "first" = "BOOL",
        /// The module's name; `run` takes the command's
        context_name: "context.name" = "NAME",
    }
    "Module" {
        /// The directory shared with the module [default: /ion]
        basedir: "basedir" = "DIR",
        /// Where the journal lives [default: .sidecar in the base directory]
        statedir: "statedir" = "DIR",
        /// Event types the module may publish, comma-separated [default: any]
        valideventtypes: "valideventtypes" = "LIST",
        /// Files moved at once [default: 16]
        parallel: "parallel" = "N",
        /// How long the module may go without a call when it is its turn; with `run --wrap`, how long it may take [default: for ever]
        module_timeout: "module-timeout" = "DURATION",
        /// The user that the module works as; `run` starts it as that one [default: the sidecar's, or whoever reaches the base directory]
        module_uid: "module-uid" = "UID",
        /// Its group [default: the number of the user]
        module_gid: "module-gid" = "GID",
        /// Variables that the module of `run` gets although they begin like a store's credentials, comma-separated
        module_env: "module-env" = "NAMES",
        /// Give up a commit that the state directory remembers and that is not decided yet
        give_up: "give-up" = "BOOL",
        /// What becomes of the outputs of a module that failed: keep, upload [default: keep]
        on_failure: "on-failure" = "WHAT",
    }
    "Server" {
        /// What the module sends in the header `secret`; `run` makes one up
        sharedsecret: "sharedsecret" = "SECRET",
        /// A file with the secret
        sharedsecret_file: "sharedsecret-file" = "FILE",
        /// The port to listen on [default: 8080; `run`: a free one]
        serverport: "serverport" = "PORT",
        /// The address to listen on [default: 127.0.0.1]
        serveraddress: "serveraddress" = "IP",
        /// A unix socket to listen on as well
        socket: "socket" = "PATH",
        /// The user that may use the socket besides root [default: this one]
        socket_uid: "socket-uid" = "UID",
        /// End after a successful done [default: true]
        exit_on_done: "exit-on-done" = "BOOL",
        /// How long to answer repeats before ending [default: 2s]
        linger: "linger" = "DURATION",
        /// How long a running commit may go on after SIGTERM [default: 30s]
        grace: "grace" = "DURATION",
    }
    "Data plane" {
        /// Where files go: file:///DIR, memory:, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, gs://BUCKET/PREFIX
        blobs: "blobs" = "URL",
        /// Where insights and event contexts go: file:///DIR, memory:, mongodb://HOST/DATABASE.COLLECTION, postgres://USER@HOST/DATABASE?table=PREFIX
        documents: "documents" = "URL",
        /// A file with that URL, where it holds a password
        documents_file: "documents-file" = "FILE",
        /// Where events go: file:///DIR, memory:, nats://HOST/SUBJECT?stream=NAME, amqp://HOST/EXCHANGE, servicebus://NAMESPACE/TOPIC?rule=NAME
        events: "events" = "URL",
        /// A file with that URL, where it holds a password
        events_file: "events-file" = "FILE",
        /// What events look like on the bus: ion, cloudevents [default: ion]
        event_format: "event-format" = "FORMAT",
        /// How long a provider may go without an answer, or a transfer without finishing a part [default: 1m]
        timeout: "timeout" = "DURATION",
        /// How long a provider that is away, or the context of an event, is tried again [default: 1m]
        retry_for: "retry-for" = "DURATION",
        /// Failures in a row after which a provider is left alone for a second; 0 never [default: 5]
        circuit_breaker: "circuit-breaker" = "N",
        /// The most calls a second to each provider [default: none]
        rate_limit: "rate-limit" = "N",
        /// How long signed URIs are valid [default: 1h]
        uri_expiry: "uri-expiry" = "DURATION",
        /// The id of the access key for s3: [default: from the environment, or the machine's role]
        s3_accesskeyid: "s3.accesskeyid" = "ID",
        /// Its secret
        s3_secretaccesskey: "s3.secretaccesskey" = "SECRET",
        /// A file with the secret
        s3_secretaccesskey_file: "s3.secretaccesskey-file" = "FILE",
        /// Certificates to trust besides the system's, as PEM
        ca_file: "ca-file" = "FILE",
        /// Keep everything in ./dev, also the secret it serves with (dev/secret); nothing else is needed but a context
        development: "development" = "BOOL",
    }
    "Azure, as the original spells it" {
        /// Keep files in Azure Blob Storage
        azureblobprovider: "azureblobprovider" = "BOOL",
        /// The storage account
        azureblobprovider_blobaccountname: "azureblobprovider.blobaccountname" = "NAME",
        /// Its access key
        azureblobprovider_blobaccountkey: "azureblobprovider.blobaccountkey" = "KEY",
        /// A shared access signature instead of a key
        azureblobprovider_sas: "azureblobprovider.sas" = "SAS",
        /// A file with the signature
        azureblobprovider_sas_file: "azureblobprovider.sas-file" = "FILE",
        /// Account, key or signature, and endpoint as the portal shows them together
        azureblobprovider_connectionstring: "azureblobprovider.connectionstring" = "TEXT",
        /// A file with the connection string
        azureblobprovider_connectionstring_file: "azureblobprovider.connectionstring-file" = "FILE",
        /// A file with the key
        azureblobprovider_blobaccountkey_file: "azureblobprovider.blobaccountkey-file" = "FILE",
        /// The container
        azureblobprovider_containername: "azureblobprovider.containername" = "NAME",
        /// Keep documents in MongoDB or Cosmos DB
        mongodbdocprovider: "mongodbdocprovider" = "BOOL",
        /// The account, which is also the database
        mongodbdocprovider_name: "mongodbdocprovider.name" = "NAME",
        /// Its password
        mongodbdocprovider_password: "mongodbdocprovider.password" = "PASSWORD",
        /// A file with the password
        mongodbdocprovider_password_file: "mongodbdocprovider.password-file" = "FILE",
        /// The collection
        mongodbdocprovider_collection: "mongodbdocprovider.collection" = "NAME",
        /// The port of the account's server [default: 10255]
        mongodbdocprovider_port: "mongodbdocprovider.port" = "PORT",
        /// Publish events to Azure Service Bus
        servicebuseventprovider: "servicebuseventprovider" = "BOOL",
        /// The namespace
        servicebuseventprovider_namespace: "servicebuseventprovider.namespace" = "NAME",
        /// The topic
        servicebuseventprovider_topic: "servicebuseventprovider.topic" = "NAME",
        /// The key of the authorization rule
        servicebuseventprovider_key: "servicebuseventprovider.key" = "KEY",
        /// A file with the key
        servicebuseventprovider_key_file: "servicebuseventprovider.key-file" = "FILE",
        /// The authorization rule
        servicebuseventprovider_authorizationrulename: "servicebuseventprovider.authorizationrulename" = "NAME",
    }
    "Program" {
        /// A TOML file whose keys are these flags; flags and environment win
        config: "config" = "FILE",
        /// Print the settings in force, without secrets, and go on
        printconfig: "printconfig" = "BOOL",
        /// error, warn, info, debug or trace [default: info]
        loglevel: "loglevel" = "LEVEL",
        /// Log to this file [default: the terminal]
        logfile: "logfile" = "FILE",
    }
}
