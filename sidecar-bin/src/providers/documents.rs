//! Where insights and event contexts go.

use std::fmt;
use std::sync::Arc;

use sidecar_core::{DocumentProvider, Result, documents};

use super::Embedded;
use super::policy::Policy;
use crate::options::Options;

/// The schemes of every build.
const SCHEMES: [&str; 4] = ["mongodb", "mongodb+srv", "postgres", "postgresql"];

/// A document provider that is not connected yet.
#[derive(Clone)]
pub(super) enum Documents {
    Embedded(Embedded),
    #[cfg(feature = "mongodb")]
    Mongo(documents::Mongo),
    #[cfg(feature = "postgres")]
    Postgres(documents::Postgres),
}

impl From<Embedded> for Documents {
    fn from(embedded: Embedded) -> Self {
        Self::Embedded(embedded)
    }
}

impl fmt::Display for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(embedded) => embedded.fmt(f),
            #[cfg(feature = "mongodb")]
            Self::Mongo(provider) => provider.fmt(f),
            #[cfg(feature = "postgres")]
            Self::Postgres(provider) => provider.fmt(f),
        }
    }
}

impl Documents {
    /// The provider that `url` names.
    pub(super) fn parse(url: &str, options: &Options) -> Result<Self, String> {
        let _ = options;
        match super::scheme(url)?.0 {
            #[cfg(feature = "mongodb")]
            "mongodb" | "mongodb+srv" => {
                let example = "mongodb://user@host/database.collection";
                let mut server = url::Url::parse(url).map_err(|error| format!("{error}: say {example}"))?;
                let name = super::take_path(&mut server);
                let Some((database, collection)) =
                    name.split_once('.').filter(|(database, name)| !database.is_empty() && !name.is_empty())
                else {
                    return Err(format!("names no collection: say {example}"));
                };
                if let Some(password) = options.mongodbdocprovider_password.as_ref()
                    && server.password().is_none()
                    && !server.username().is_empty()
                {
                    server.set_password(Some(password)).map_err(|()| "takes no password")?;
                }
                let config = documents::MongoConfig {
                    database: database.into(),
                    collection: collection.into(),
                    ca_file: options.ca_file(),
                };
                Ok(Self::Mongo(documents::Mongo::open(&server, config)))
            }
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => {
                let example = "postgres://user@host/database?table=prefix";
                let url = url::Url::parse(url).map_err(|error| format!("{error}: say {example}"))?;
                let opened = documents::Postgres::open(&url, options.ca_file().as_deref());
                opened.map(Self::Postgres).map_err(|error| error.chain())
            }
            _ => Embedded::parse(url, "documents", &SCHEMES).map(Self::Embedded),
        }
    }

    /// The collection of the account of Cosmos DB that the original's flags name: the account is the user and
    /// the database too.
    pub(super) fn ion(options: &Options) -> Result<Self, String> {
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        let account = text(&options.mongodbdocprovider_name);
        let port = options.mongodbdocprovider_port.as_deref().unwrap_or("10255");
        let collection = text(&options.mongodbdocprovider_collection);
        // Cosmos DB speaks TLS only and takes no retryable writes.
        let settings = "tls=true&replicaSet=globaldb&retryWrites=false";
        let host = format!("{account}.documents.azure.com:{port}");
        Self::parse(&format!("mongodb://{account}@{host}/{account}.{collection}?{settings}"), options)
    }

    pub(super) fn open(&self, policy: &Policy) -> Result<Arc<dyn DocumentProvider>> {
        let _ = policy;
        Ok(match self {
            Self::Embedded(Embedded::Local(dir)) => Arc::new(documents::Local::open(dir)?),
            Self::Embedded(Embedded::Memory) => Arc::new(documents::Memory::default()),
            #[cfg(feature = "mongodb")]
            Self::Mongo(provider) => super::policy::wrapped!(policy, provider.clone()),
            #[cfg(feature = "postgres")]
            Self::Postgres(provider) => super::policy::wrapped!(policy, provider.clone()),
        })
    }
}
