//! The command line, as it is typed: every flag is text here, so that `config` can judge them all at once.

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{Args, Parser, Subcommand};

use crate::exit;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs beside a module that works on plain files: stages its inputs, commits its outputs.
///
/// Without a command it serves: the module calls GET /ready, works, and calls GET /done, each with the header
/// `secret`. Flags win over environment variables, and those over the file given by --config.
#[derive(Parser)]
#[command(name = "sidecar", version, styles = STYLES, after_help = exit::HELP, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: Options,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves, starts a module, and exits with its code
    Run {
        /// Stage the inputs before the command and commit the outputs after it: the module needs no sidecar code
        #[arg(long)]
        wrap: bool,
        /// Run again what was committed already
        #[arg(long)]
        rerun: bool,
        /// The command and its arguments
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<std::ffi::OsString>,
    },
    /// Stages the inputs and exits
    Prepare,
    /// Commits the outputs of a prepared module and exits
    Commit,
    /// Checks that the data plane can be used, and exits
    Check,
    /// Puts files and values into the data plane as a first event and prints its id
    Submit {
        /// The event's type
        #[arg(long = "type", value_name = "TYPE", default_value = "submitted")]
        event_type: String,
        /// A value for the consumer's in/meta.json; may be repeated
        #[arg(long = "value", value_name = "KEY=VALUE")]
        values: Vec<String>,
        /// Files, and directories whose files are taken with their names in them
        #[arg(value_name = "FILE")]
        files: Vec<std::path::PathBuf>,
    },
}

/// Every flag that a setting can have. Deliberately without `Debug`: some are secrets.
#[derive(Clone, Default, Args)]
pub(crate) struct Options {
    /// The event being processed; `run` makes one up for the first event of a graph
    #[arg(
        long = "context.eventid",
        env = "SIDECAR_CONTEXT_EVENTID",
        hide_env_values = true,
        value_name = "ID",
        global = true,
        help_heading = "Context"
    )]
    pub(crate) context_eventid: Option<String>,
    /// Shared by all events of one graph [default: the event's id]
    #[arg(
        long = "context.correlationid",
        env = "SIDECAR_CONTEXT_CORRELATIONID",
        hide_env_values = true,
        value_name = "ID",
        global = true,
        help_heading = "Context"
    )]
    pub(crate) context_correlationid: Option<String>,
    /// The event that led to this one [default: none]
    #[arg(
        long = "context.parenteventid",
        env = "SIDECAR_CONTEXT_PARENTEVENTID",
        hide_env_values = true,
        value_name = "ID",
        global = true,
        help_heading = "Context"
    )]
    pub(crate) context_parenteventid: Option<String>,
    /// The module's name; `run` takes the command's
    #[arg(
        long = "context.name",
        env = "SIDECAR_CONTEXT_NAME",
        hide_env_values = true,
        value_name = "NAME",
        global = true,
        help_heading = "Context"
    )]
    pub(crate) context_name: Option<String>,
    /// The directory shared with the module [default: /ion]
    #[arg(
        long = "basedir",
        env = "SIDECAR_BASE_DIR",
        hide_env_values = true,
        value_name = "DIR",
        global = true,
        help_heading = "Module"
    )]
    pub(crate) basedir: Option<String>,
    /// Where the journal lives [default: .sidecar in the base directory]
    #[arg(
        long = "statedir",
        env = "SIDECAR_STATEDIR",
        hide_env_values = true,
        value_name = "DIR",
        global = true,
        help_heading = "Module"
    )]
    pub(crate) statedir: Option<String>,
    /// Event types the module may publish, comma-separated [default: any]
    #[arg(
        long = "valideventtypes",
        env = "SIDECAR_VALIDEVENTTYPES",
        hide_env_values = true,
        value_name = "LIST",
        global = true,
        help_heading = "Module"
    )]
    pub(crate) valideventtypes: Option<String>,
    /// Files moved at once [default: 16]
    #[arg(
        long = "parallel",
        env = "SIDECAR_PARALLEL",
        hide_env_values = true,
        value_name = "N",
        global = true,
        help_heading = "Module"
    )]
    pub(crate) parallel: Option<String>,
    /// What the module sends in the header `secret`; `run` makes one up
    #[arg(
        long = "sharedsecret",
        env = "SHARED_SECRET",
        hide_env_values = true,
        value_name = "SECRET",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) sharedsecret: Option<String>,
    /// The port to listen on [default: 8080; `run`: a free one]
    #[arg(
        long = "serverport",
        env = "SIDECAR_PORT",
        hide_env_values = true,
        value_name = "PORT",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) serverport: Option<String>,
    /// The address to listen on [default: 127.0.0.1]
    #[arg(
        long = "serveraddress",
        env = "SIDECAR_SERVERADDRESS",
        hide_env_values = true,
        value_name = "IP",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) serveraddress: Option<String>,
    /// A unix socket to listen on as well
    #[arg(
        long = "socket",
        env = "SIDECAR_SOCKET",
        hide_env_values = true,
        value_name = "PATH",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) socket: Option<String>,
    /// End after a successful done [default: true]
    #[arg(long = "exit-on-done", env = "SIDECAR_EXIT_ON_DONE", hide_env_values = true, value_name = "BOOL", global = true, help_heading = "Server", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) exit_on_done: Option<String>,
    /// How long to answer repeats before ending [default: 2s]
    #[arg(
        long = "linger",
        env = "SIDECAR_LINGER",
        hide_env_values = true,
        value_name = "DURATION",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) linger: Option<String>,
    /// How long a running commit may go on after SIGTERM [default: 30s]
    #[arg(
        long = "grace",
        env = "SIDECAR_GRACE",
        hide_env_values = true,
        value_name = "DURATION",
        global = true,
        help_heading = "Server"
    )]
    pub(crate) grace: Option<String>,
    /// Where files go: file:///DIR, memory:, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX
    #[arg(
        long = "blobs",
        env = "SIDECAR_BLOBS",
        hide_env_values = true,
        value_name = "URL",
        global = true,
        help_heading = "Data plane"
    )]
    pub(crate) blobs: Option<String>,
    /// Where insights and event contexts go: file:///DIR, memory:, postgres://USER@HOST/DATABASE?table=PREFIX
    #[arg(
        long = "documents",
        env = "SIDECAR_DOCUMENTS",
        hide_env_values = true,
        value_name = "URL",
        global = true,
        help_heading = "Data plane"
    )]
    pub(crate) documents: Option<String>,
    /// Where events go: file:///DIR, memory:, nats://HOST/SUBJECT?stream=NAME
    #[arg(
        long = "events",
        env = "SIDECAR_EVENTS",
        hide_env_values = true,
        value_name = "URL",
        global = true,
        help_heading = "Data plane"
    )]
    pub(crate) events: Option<String>,
    /// How long a provider may go without an answer, or a transfer without moving [default: 1m]
    #[arg(
        long = "timeout",
        env = "SIDECAR_TIMEOUT",
        hide_env_values = true,
        value_name = "DURATION",
        global = true,
        help_heading = "Data plane"
    )]
    pub(crate) timeout: Option<String>,
    /// How long a provider that is away is tried again [default: 1m]
    #[arg(
        long = "retry-for",
        env = "SIDECAR_RETRY_FOR",
        hide_env_values = true,
        value_name = "DURATION",
        global = true,
        help_heading = "Data plane"
    )]
    pub(crate) retry_for: Option<String>,
    /// How long signed URIs are valid [default: 1h]
    #[arg(
        long = "uri-expiry",
        env = "SIDECAR_URI_EXPIRY",
        hide_env_values = true,
        value_name = "DURATION",
        global = true,
        help_heading = "Data plane"
    )]
    pub(crate) uri_expiry: Option<String>,
    /// Keep everything in ./dev, with a secret of `dev`; nothing else is needed but a context
    #[arg(long = "development", env = "SIDECAR_DEVELOPMENT", hide_env_values = true, value_name = "BOOL", global = true, help_heading = "Data plane", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) development: Option<String>,
    /// Keep files in Azure Blob Storage
    #[arg(long = "azureblobprovider", env = "SIDECAR_AZUREBLOBPROVIDER", hide_env_values = true, value_name = "BOOL", global = true, help_heading = "Azure, as the original spells it", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) azureblobprovider: Option<String>,
    /// The storage account
    #[arg(
        long = "azureblobprovider.blobaccountname",
        env = "SIDECAR_AZUREBLOBPROVIDER_BLOBACCOUNTNAME",
        hide_env_values = true,
        value_name = "NAME",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) azureblobprovider_blobaccountname: Option<String>,
    /// Its access key
    #[arg(
        long = "azureblobprovider.blobaccountkey",
        env = "SIDECAR_AZUREBLOBPROVIDER_BLOBACCOUNTKEY",
        hide_env_values = true,
        value_name = "KEY",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) azureblobprovider_blobaccountkey: Option<String>,
    /// The container
    #[arg(
        long = "azureblobprovider.containername",
        env = "SIDECAR_AZUREBLOBPROVIDER_CONTAINERNAME",
        hide_env_values = true,
        value_name = "NAME",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) azureblobprovider_containername: Option<String>,
    /// Keep documents in MongoDB or Cosmos DB
    #[arg(long = "mongodbdocprovider", env = "SIDECAR_MONGODBDOCPROVIDER", hide_env_values = true, value_name = "BOOL", global = true, help_heading = "Azure, as the original spells it", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) mongodbdocprovider: Option<String>,
    /// The account, which is also the database
    #[arg(
        long = "mongodbdocprovider.name",
        env = "SIDECAR_MONGODBDOCPROVIDER_NAME",
        hide_env_values = true,
        value_name = "NAME",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) mongodbdocprovider_name: Option<String>,
    /// Its password
    #[arg(
        long = "mongodbdocprovider.password",
        env = "SIDECAR_MONGODBDOCPROVIDER_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) mongodbdocprovider_password: Option<String>,
    /// The collection
    #[arg(
        long = "mongodbdocprovider.collection",
        env = "SIDECAR_MONGODBDOCPROVIDER_COLLECTION",
        hide_env_values = true,
        value_name = "NAME",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) mongodbdocprovider_collection: Option<String>,
    /// The port of the account's server [default: 10255]
    #[arg(
        long = "mongodbdocprovider.port",
        env = "SIDECAR_MONGODBDOCPROVIDER_PORT",
        hide_env_values = true,
        value_name = "PORT",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) mongodbdocprovider_port: Option<String>,
    /// Publish events to Azure Service Bus
    #[arg(long = "servicebuseventprovider", env = "SIDECAR_SERVICEBUSEVENTPROVIDER", hide_env_values = true, value_name = "BOOL", global = true, help_heading = "Azure, as the original spells it", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) servicebuseventprovider: Option<String>,
    /// The namespace
    #[arg(
        long = "servicebuseventprovider.namespace",
        env = "SIDECAR_SERVICEBUSEVENTPROVIDER_NAMESPACE",
        hide_env_values = true,
        value_name = "NAME",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) servicebuseventprovider_namespace: Option<String>,
    /// The topic
    #[arg(
        long = "servicebuseventprovider.topic",
        env = "SIDECAR_SERVICEBUSEVENTPROVIDER_TOPIC",
        hide_env_values = true,
        value_name = "NAME",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) servicebuseventprovider_topic: Option<String>,
    /// The key of the authorization rule
    #[arg(
        long = "servicebuseventprovider.key",
        env = "SIDECAR_SERVICEBUSEVENTPROVIDER_KEY",
        hide_env_values = true,
        value_name = "KEY",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) servicebuseventprovider_key: Option<String>,
    /// The authorization rule
    #[arg(
        long = "servicebuseventprovider.authorizationrulename",
        env = "SIDECAR_SERVICEBUSEVENTPROVIDER_AUTHORIZATIONRULENAME",
        hide_env_values = true,
        value_name = "NAME",
        global = true,
        help_heading = "Azure, as the original spells it"
    )]
    pub(crate) servicebuseventprovider_authorizationrulename: Option<String>,
    /// A TOML file whose keys are these flags; flags and environment win
    #[arg(
        long = "config",
        env = "SIDECAR_CONFIG",
        hide_env_values = true,
        value_name = "FILE",
        global = true,
        help_heading = "Program"
    )]
    pub(crate) config: Option<String>,
    /// Print the settings in force, without secrets
    #[arg(long = "printconfig", env = "SIDECAR_PRINTCONFIG", hide_env_values = true, value_name = "BOOL", global = true, help_heading = "Program", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) printconfig: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(
        long = "loglevel",
        env = "SIDECAR_LOGLEVEL",
        hide_env_values = true,
        value_name = "LEVEL",
        global = true,
        help_heading = "Program"
    )]
    pub(crate) loglevel: Option<String>,
    /// Log to this file [default: the terminal]
    #[arg(
        long = "logfile",
        env = "SIDECAR_LOGFILE",
        hide_env_values = true,
        value_name = "FILE",
        global = true,
        help_heading = "Program"
    )]
    pub(crate) logfile: Option<String>,
}

impl Options {
    /// Every option, to be mended where it stands.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Option<String>> {
        [
            &mut self.context_eventid,
            &mut self.context_correlationid,
            &mut self.context_parenteventid,
            &mut self.context_name,
            &mut self.basedir,
            &mut self.statedir,
            &mut self.valideventtypes,
            &mut self.parallel,
            &mut self.sharedsecret,
            &mut self.serverport,
            &mut self.serveraddress,
            &mut self.socket,
            &mut self.exit_on_done,
            &mut self.linger,
            &mut self.grace,
            &mut self.blobs,
            &mut self.documents,
            &mut self.events,
            &mut self.timeout,
            &mut self.retry_for,
            &mut self.uri_expiry,
            &mut self.development,
            &mut self.azureblobprovider,
            &mut self.azureblobprovider_blobaccountname,
            &mut self.azureblobprovider_blobaccountkey,
            &mut self.azureblobprovider_containername,
            &mut self.mongodbdocprovider,
            &mut self.mongodbdocprovider_name,
            &mut self.mongodbdocprovider_password,
            &mut self.mongodbdocprovider_collection,
            &mut self.mongodbdocprovider_port,
            &mut self.servicebuseventprovider,
            &mut self.servicebuseventprovider_namespace,
            &mut self.servicebuseventprovider_topic,
            &mut self.servicebuseventprovider_key,
            &mut self.servicebuseventprovider_authorizationrulename,
            &mut self.config,
            &mut self.printconfig,
            &mut self.loglevel,
            &mut self.logfile,
        ]
        .into_iter()
    }
}
