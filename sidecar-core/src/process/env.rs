//! Which environment variables of this process are none of a module's business.

/// How variables begin that may hold a store's credentials, by the scheme of its URL.
const CREDENTIALS: [(&str, &[&str]); 12] = [
    ("s3", &["AWS_"]),
    ("az", &["AZURE_"]),
    ("gs", &["GOOGLE_"]),
    ("mongodb", &["MONGODB_", "AWS_"]),
    ("mongodb+srv", &["MONGODB_", "AWS_"]),
    ("postgres", &["PG"]),
    ("postgresql", &["PG"]),
    ("servicebus", &["AZURE_"]),
    ("nats", &["NATS_"]),
    ("tls", &["NATS_"]),
    ("amqp", &["AMQP_", "RABBITMQ_"]),
    ("amqps", &["AMQP_", "RABBITMQ_"]),
];

/// The variables of this process that a module must not inherit: the sidecar's settings (`SIDECAR_…`), and those that
/// may hold credentials of the stores with these URLs, or of the collector of spans. `let_through` are names that a module gets all the same,
/// separated by commas.
pub fn hidden_variables<'u>(urls: impl IntoIterator<Item = &'u str>, let_through: &str) -> Vec<String> {
    let schemes: Vec<&str> = urls.into_iter().filter_map(|url| url.split(':').next()).collect();
    let of_stores = CREDENTIALS.iter().filter(|(scheme, _)| schemes.contains(scheme));
    let begins: Vec<&str> = of_stores.flat_map(|(_, begins)| *begins).copied().chain(["SIDECAR_"]).collect();
    let let_through: Vec<&str> = let_through.split(',').map(str::trim).collect();
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| begins.iter().any(|begin| name.starts_with(begin)) || is_for_the_collector(name))
        .filter(|name| !let_through.contains(&&**name))
        .collect()
}

/// Whether a variable holds what the collector of spans is asked with: credentials, as a rule. A module finds the collector
/// itself by the others.
fn is_for_the_collector(name: &str) -> bool {
    name.starts_with("OTEL_EXPORTER_OTLP_") && name.ends_with("HEADERS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_of_a_store_with_credentials_is_known() {
        for scheme in crate::plane::schemes() {
            assert!(CREDENTIALS.iter().any(|(of, _)| *of == scheme), "{scheme}");
        }
    }
}
