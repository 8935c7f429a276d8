//! What a store answered, in one short sentence.

use std::error::Error as StdError;

/// The longest text of a store that is shown, in bytes.
const LONGEST: usize = 200;

/// Where credentials come from, by the scheme of the store.
const CREDENTIALS: [(&str, &str); 3] = [
    (
        "s3:",
        "set --s3.accesskeyid and --s3.secretaccesskey, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the \
         machine a role",
    ),
    (
        "az:",
        "set --azureblobprovider.blobaccountkey or --azureblobprovider.sas, or AZURE_STORAGE_ACCOUNT_KEY, or give the \
         machine a managed identity",
    ),
    (
        "gs:",
        "set GOOGLE_APPLICATION_CREDENTIALS, or ?credentials=FILE in --blobs, or give the machine a service account",
    ),
];

/// Why the store named `store` did not do what it was asked: code, message and resource of its XML document, or its
/// status, or the innermost cause. The whole text goes to the log at debug level.
pub(super) fn summary(store: &str, error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    let text = innermost.to_string();
    tracing::debug!(%error, "the store's whole answer");
    let whole = error.to_string();
    if ["169.254.169.254", "169.254.170.2", "metadata.google.internal"].iter().any(|at| whole.contains(at)) {
        let how = CREDENTIALS.iter().find(|(scheme, _)| store.starts_with(scheme));
        return format!("no credentials were found: {}", how.map_or("the store wants some", |(_, how)| how));
    }
    if whole.contains("InvalidContentType") || text.contains("InvalidContentType") {
        return "the server does not speak TLS: give an http:// endpoint".to_owned();
    }
    if text.to_ascii_lowercase().contains("<html") {
        let status = text.split_once("status code: ").map_or("", |(_, rest)| rest).split('<').next();
        let status = status.unwrap_or_default().trim_end_matches([':', ' ']);
        return short(&format!("{status} with a web page: another server may listen at the endpoint"));
    }
    let said = ["Code", "Message", "Resource"].map(|name| element(&text, name));
    if let [Some(code), message, resource] = said {
        let message = message.map(|message| format!(": {message}")).unwrap_or_default();
        let resource = resource.map(|resource| format!(" ({resource})")).unwrap_or_default();
        return short(&format!("{code}{message}{resource}"));
    }
    short(text.split_once("status code: ").map_or(&*text, |(_, status)| status))
}

/// The text of an element of a store's XML.
fn element<'x>(xml: &'x str, name: &str) -> Option<&'x str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

/// One line of bounded length.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().find(|(at, _)| *at >= LONGEST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.trim_end_matches([':', ' ']).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Text(&'static str);

    #[test]
    fn an_answer_is_one_short_line() {
        let xml = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code>\n\
                   <Message>Access Denied.</Message><Resource>/b/k</Resource><RequestId>1</RequestId></Error>";
        assert_eq!(summary("s3://b", &Text(xml)), "AccessDenied: Access Denied. (/b/k)");
        let plain = "Server returned non-2xx status code: 503 Service Unavailable: ";
        assert_eq!(summary("s3://b", &Text(plain)), "503 Service Unavailable");
        let html: &'static str = Box::leak("<p>no</p>\n".repeat(1000).into_boxed_str());
        assert!(summary("s3://b", &Text(html)).len() <= LONGEST + 3);
        let none = "Error performing PUT http://169.254.169.254/latest/api/token in 2ms";
        for (store, variable) in [
            ("s3://b", "AWS_ACCESS_KEY_ID"),
            ("az://b", "AZURE_STORAGE_ACCOUNT_KEY"),
            ("gs://b", "GOOGLE_APPLICATION_CREDENTIALS"),
        ] {
            assert!(summary(store, &Text(none)).contains(variable));
        }
    }
}
