//! Where insights and event contexts go.

use std::sync::Arc;

#[cfg(feature = "mongodb")]
use super::Credential;
#[cfg(any(feature = "mongodb", feature = "postgres"))]
use super::config::Opener;
use super::config::{Given, Problem, Store};
use super::faulty;
use super::text::{self, Embedded};
use crate::{DocumentProvider, documents};

/// A document provider that is not open yet.
pub(super) type Documents = Store<dyn DocumentProvider>;

/// The schemes of every build.
pub(super) const SCHEMES: [&str; 4] = ["mongodb", "mongodb+srv", "postgres", "postgresql"];

/// The store that `url` names.
pub(super) fn parse(url: &str, given: &Given<'_>) -> Result<Documents, Problem> {
    match text::scheme(url)?.0 {
        #[cfg(feature = "mongodb")]
        "mongodb" | "mongodb+srv" => {
            let password = (given.credential)(Credential::MongoPassword);
            let (server, database, collection) = mongo(url, password.as_deref())?;
            let ca_file = given.config.ca_file.clone();
            let config = documents::MongoConfig { database, collection, ca_file };
            remote(url, move || Ok(documents::Mongo::open(server.clone(), config.clone())), given)
        }
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let example = "postgres://user@host/database?table=prefix";
            let parsed = url::Url::parse(url).map_err(|error| format!("{error}: say {example}"))?;
            if parsed.fragment().is_some() {
                return Err("has a #, which ends a URL: write it as %23".into());
            }
            let ca_file = given.config.ca_file.clone();
            remote(url, move || documents::Postgres::open(&parsed, ca_file.as_deref()), given)
        }
        _ => match text::embedded(url, "documents", &SCHEMES)? {
            #[cfg(feature = "local")]
            Embedded::Local(root) => {
                Ok(Documents::local(root, &documents::Kind::ALL.map(documents::Kind::plural), |root| {
                    Ok(Arc::new(faulty(documents::Local::open(root)?)))
                }))
            }
            #[cfg(feature = "memory")]
            Embedded::Memory => {
                Ok(Documents::new("memory:".into(), || Ok(Arc::new(documents::Memory::default()))))
            }
        },
    }
}

/// A store on the network with the policies around it.
#[cfg(any(feature = "mongodb", feature = "postgres"))]
fn remote<P: DocumentProvider>(
    url: &str,
    open: impl Fn() -> crate::Result<P> + Send + Sync + 'static,
    given: &Given<'_>,
) -> Result<Documents, Problem> {
    let (policies, open) = (given.config.policies.clone(), Opener::new(open)?);
    Ok(Documents::new(text::shown(url), move || Ok(Arc::new(policies.around(faulty(open.open()?))))))
}

/// The connection string without its path, and the two names of the path.
///
/// It may list several hosts, which no URL can.
#[cfg(feature = "mongodb")]
fn mongo(url: &str, password: Option<&str>) -> Result<(String, String, String), String> {
    let example = "mongodb://user@host/database.collection";
    if url.contains('#') {
        return Err("has a #, which ends a URL: write it as %23".into());
    }
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("is not a URL: write {example}"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = text::decoded(path);
    let names = path.split_once('.').filter(|(database, name)| !database.is_empty() && !name.is_empty());
    let (database, collection) = names.ok_or_else(|| format!("names no collection: say {example}"))?;
    let authority = match (authority.rsplit_once('@'), password) {
        (Some((user, _)), Some(_)) if user.contains(':') => {
            return Err("holds a password, and another one is given apart: leave one out".into());
        }
        (Some((user, hosts)), Some(password)) => {
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
    fn a_connection_string_may_list_hosts_and_take_its_password_from_elsewhere() {
        let (server, database, collection) =
            mongo("mongodb://u@h1:1,h2:2/db.some.docs?replicaSet=r", Some("a%4 b/@")).unwrap();
        assert_eq!(server, "mongodb://u:a%254%20b%2F%40@h1:1,h2:2/?replicaSet=r");
        assert_eq!((database.as_str(), collection.as_str()), ("db", "some.docs"));
        for wrong in ["mongodb://h", "mongodb://h/db", "mongodb://h/.docs", "mongodb:h/db.docs"] {
            assert!(mongo(wrong, None).is_err(), "{wrong}");
        }
    }
}
