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
                let (server, database, collection) = mongo(url, options)?;
                let config = documents::MongoConfig { database, collection, ca_file: options.ca_file() };
                Ok(Self::Mongo(documents::Mongo::open(server, config)))
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
        // The original's `documents.azure.com` serves version 3.2 alone, which no driver of today speaks.
        let host = format!("{account}.mongo.cosmos.azure.com:{port}");
        Self::parse(&format!("mongodb://{account}@{host}/{account}.{collection}?{settings}"), options)
    }

    pub(super) fn open(&self, policy: &Policy) -> Result<Arc<dyn DocumentProvider>> {
        let _ = policy;
        Ok(match self {
            Self::Embedded(Embedded::Local(dir)) => Arc::new(super::faulty(documents::Local::open(dir)?)),
            Self::Embedded(Embedded::Memory) => Arc::new(documents::Memory::default()),
            #[cfg(feature = "mongodb")]
            Self::Mongo(provider) => super::policy::wrapped!(policy, provider.clone()),
            #[cfg(feature = "postgres")]
            Self::Postgres(provider) => super::policy::wrapped!(policy, provider.clone()),
        })
    }
}

/// The connection string without its path, and the two names of the path.
///
/// It may list several hosts, which no URL can.
#[cfg(feature = "mongodb")]
fn mongo(url: &str, options: &Options) -> Result<(String, String, String), String> {
    let example = "mongodb://user@host/database.collection";
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("is no URL: say {example}"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = super::decoded(path);
    let names = path.split_once('.').filter(|(database, name)| !database.is_empty() && !name.is_empty());
    let (database, collection) = names.ok_or_else(|| format!("names no collection: say {example}"))?;
    let authority = match (authority.rsplit_once('@'), &options.mongodbdocprovider_password) {
        (Some((user, hosts)), Some(password)) if !user.contains(':') => {
            let password: String = url::form_urlencoded::byte_serialize(password.as_bytes()).collect();
            // A space is a plus sign in forms only.
            format!("{user}:{}@{hosts}", password.replace('+', "%20"))
        }
        _ => authority.to_owned(),
    };
    Ok((format!("{scheme}://{authority}/?{query}"), database.to_owned(), collection.to_owned()))
}

#[cfg(all(test, feature = "mongodb"))]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_may_list_hosts_and_take_its_password_from_a_flag() {
        let options = Options { mongodbdocprovider_password: Some("a%4 b/@".into()), ..Options::default() };
        let (server, database, collection) =
            mongo("mongodb://u@h1:1,h2:2/db.some.docs?replicaSet=r", &options).unwrap();
        assert_eq!(server, "mongodb://u:a%254%20b%2F%40@h1:1,h2:2/?replicaSet=r");
        assert_eq!((database.as_str(), collection.as_str()), ("db", "some.docs"));
        for wrong in ["mongodb://h", "mongodb://h/db", "mongodb://h/.docs", "mongodb:h/db.docs"] {
            assert!(mongo(wrong, &options).is_err(), "{wrong}");
        }
    }
}
