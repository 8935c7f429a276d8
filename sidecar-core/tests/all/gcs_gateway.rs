//! What fake-gcs-server lacks of Google Cloud Storage: a gateway in front of it that verifies signatures and
//! speaks the XML interface, which it turns into the JSON interface that the server has.
//!
//! Every request must carry a JWT signed with the service account's key, or a V4 signature in its query.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use aws_lc_rs::{digest, encoding::Pkcs8V1Der};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

/// The host that is signed, whatever the endpoint.
const SIGNED_HOST: &str = "storage.googleapis.com";

/// What stays as it is in a signed query.
const STRICT_SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A running gateway.
#[derive(Clone)]
pub struct Gateway {
    /// Where it listens.
    pub endpoint: String,
    /// The file with the service account's key.
    pub credentials: std::path::PathBuf,
    server: String,
    public_key: Arc<Vec<u8>>,
    uploads: Arc<Mutex<HashMap<String, BTreeMap<u32, Bytes>>>>,
    client: reqwest::Client,
}

impl Gateway {
    /// Starts it in front of fake-gcs-server at `server`, with a thread of its own.
    pub fn start(server: &str) -> Self {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(pkcs8.as_ref())
        );
        let credentials = tempfile::NamedTempFile::new().unwrap().into_temp_path().keep().unwrap();
        let account = serde_json::json!({
            "private_key": pem, "private_key_id": "k1", "client_email": "sidecar@test.iam.gserviceaccount.com"
        });
        std::fs::write(&credentials, account.to_string()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let gateway = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            credentials,
            server: server.to_owned(),
            public_key: Arc::new(key.public_key().as_ref().to_vec()),
            uploads: Arc::default(),
            client: reqwest::Client::new(),
        };
        let app =
            Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(gateway.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                axum::serve(listener, app).await.unwrap();
            });
        });
        gateway
    }

    /// Makes a bucket.
    pub async fn make_bucket(&self, name: &str) {
        let url = format!("{}/storage/v1/b?project=p", self.server);
        let body = serde_json::json!({ "name": name }).to_string();
        let request = self.client.post(url).header("content-type", "application/json").body(body);
        assert!(matches!(request.send().await.unwrap().status().as_u16(), 200 | 409));
    }

    fn verified(&self, signature: &[u8], signed: &str) -> bool {
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &*self.public_key);
        key.verify(signed.as_bytes(), signature).is_ok()
    }

    /// Whether the request carries a token of the service account, or a signature in its query.
    fn authorised(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
        if let Some(header) = headers.get("authorization") {
            let jwt = header.to_str().unwrap_or_default().strip_prefix("Bearer ").unwrap_or_default();
            let Some((signed, signature)) = jwt.rsplit_once('.') else { return false };
            return URL_SAFE_NO_PAD.decode(signature).is_ok_and(|bytes| self.verified(&bytes, signed));
        }
        let query = uri.query().unwrap_or_default();
        let pairs: Vec<(String, String)> =
            url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let find = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let (Some(signature), Some(date), Some(expires), Some(credential)) = (
            find("X-Goog-Signature"),
            find("X-Goog-Date"),
            find("X-Goog-Expires"),
            find("X-Goog-Credential"),
        ) else {
            return false;
        };
        let encode = |text: &str| utf8_percent_encode(text, STRICT_SET).to_string();
        let mut signed: Vec<String> = pairs
            .iter()
            .filter(|(key, _)| key != "X-Goog-Signature")
            .map(|(key, value)| format!("{}={}", encode(key), encode(value)))
            .collect();
        signed.sort();
        let request = format!(
            "{method}\n{}\n{}\nhost:{SIGNED_HOST}\n\nhost\nUNSIGNED-PAYLOAD",
            uri.path(),
            signed.join("&")
        );
        let scope = credential.split_once('/').map_or("", |(_, scope)| scope);
        let hash = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let signed = format!("GOOG4-RSA-SHA256\n{date}\n{scope}\n{hash}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        seconds(date) + expires.parse::<u64>().unwrap_or(0) > now && self.verified(&unhex(signature), &signed)
    }

    async fn insert(&self, bucket: &str, key: &str, body: Bytes) -> Response<Body> {
        let name = utf8_percent_encode(key, NON_ALPHANUMERIC);
        let url = format!("{}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", self.server);
        let answer = self.client.post(url).body(body).send().await.unwrap();
        let builder = Response::builder().status(answer.status()).header("etag", "\"e\"");
        builder.body(Body::from(answer.bytes().await.unwrap())).unwrap()
    }

    /// A page of the XML API's listing, of the JSON API's.
    async fn list(&self, bucket: &str, query: &HashMap<String, String>) -> Response<Body> {
        let mut url = Url::parse(&format!("{}/storage/v1/b/{bucket}/o", self.server)).unwrap();
        for (theirs, ours) in
            [("prefix", "prefix"), ("startOffset", "start-after"), ("pageToken", "continuation-token")]
        {
            if let Some(value) = query.get(ours) {
                url.query_pairs_mut().append_pair(theirs, value);
            }
        }
        let answer = self.client.get(url).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let after = query.get("start-after");
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let contents: String = json["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| after.is_none_or(|after| item["name"].as_str().unwrap() > after.as_str()))
            .map(|item| {
                let (name, size) = (escape(item["name"].as_str().unwrap()), item["size"].as_str().unwrap());
                let updated = item["updated"].as_str().unwrap();
                format!(
                    "<Contents><Key>{name}</Key><Size>{size}</Size><LastModified>{updated}</LastModified></Contents>"
                )
            })
            .collect();
        let next = json["nextPageToken"]
            .as_str()
            .map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
        let xml = format!("<ListBucketResult>{contents}{}</ListBucketResult>", next.unwrap_or_default());
        Response::builder().status(status).header("etag", "\"e\"").body(Body::from(xml)).unwrap()
    }

    async fn delete(&self, bucket: &str, key: &str) -> Response<Body> {
        let name = utf8_percent_encode(key, NON_ALPHANUMERIC);
        let url = format!("{}/storage/v1/b/{bucket}/o/{name}", self.server);
        let status = self.client.delete(url).send().await.unwrap().status();
        Response::builder().status(status).body(Body::empty()).unwrap()
    }

    async fn read(&self, method: Method, bucket: &str, key: &str, headers: &HeaderMap) -> Response<Body> {
        let name = utf8_percent_encode(key, NON_ALPHANUMERIC);
        let url = format!("{}/storage/v1/b/{bucket}/o/{name}?alt=media", self.server);
        let mut request = self.client.request(Method::GET, url);
        if let Some(range) = headers.get("range") {
            request = request.header("range", range);
        }
        let answer = request.send().await.unwrap();
        let mut builder = Response::builder().status(answer.status());
        for name in ["content-range", "content-length", "last-modified", "etag"] {
            if let Some(value) = answer.headers().get(name) {
                builder = builder.header(name, value);
            }
        }
        let body = answer.bytes().await.unwrap();
        builder.body(if method == Method::HEAD { Body::empty() } else { Body::from(body) }).unwrap()
    }
}

async fn answer(
    State(gateway): State<Gateway>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let plain = |status: StatusCode, text: String| {
        Response::builder().status(status).header("etag", "\"e\"").body(Body::from(text)).unwrap()
    };
    if !gateway.authorised(&method, &uri, &headers) {
        return plain(StatusCode::FORBIDDEN, "SignatureDoesNotMatch".into());
    }
    let path = percent_decode_str(uri.path()).decode_utf8().unwrap().into_owned();
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    if query.contains_key("list-type") {
        return gateway.list(path.trim_matches('/'), &query).await;
    }
    let Some((bucket, key)) = path.trim_start_matches('/').split_once('/') else {
        return plain(StatusCode::BAD_REQUEST, "no object".into());
    };
    let upload = query.get("uploadId").cloned();
    match (method, upload) {
        (Method::POST, None) => {
            let id = uuid::Uuid::new_v4().to_string();
            gateway.uploads.lock().unwrap().insert(id.clone(), BTreeMap::new());
            let xml = format!(
                "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>k</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            plain(StatusCode::OK, xml)
        }
        (Method::PUT, Some(id)) => {
            let number = query["partNumber"].parse().unwrap();
            // A part may arrive after its upload was aborted.
            match gateway.uploads.lock().unwrap().get_mut(&id) {
                Some(parts) => drop(parts.insert(number, body)),
                None => return plain(StatusCode::NOT_FOUND, "NoSuchUpload".into()),
            }
            plain(StatusCode::OK, String::new())
        }
        (Method::POST, Some(id)) => {
            let parts = gateway.uploads.lock().unwrap().remove(&id).unwrap();
            let whole: Vec<u8> = parts.into_values().flatten().collect();
            gateway.insert(bucket, key, whole.into()).await;
            let xml = "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>";
            plain(StatusCode::OK, xml.into())
        }
        (Method::DELETE, Some(id)) => {
            gateway.uploads.lock().unwrap().remove(&id);
            plain(StatusCode::NO_CONTENT, String::new())
        }
        (Method::DELETE, None) => gateway.delete(bucket, key).await,
        (Method::PUT, None) => gateway.insert(bucket, key, body).await,
        (method, _) => gateway.read(method, bucket, key, &headers).await,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).filter_map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()).collect()
}

/// The Unix time of `20261121T124209Z`.
fn seconds(date: &str) -> u64 {
    let number = |from: usize, to: usize| date.get(from..to).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before: u64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    let months: u64 = lengths.iter().take(month.saturating_sub(1) as usize).sum();
    let days = before + months + day.saturating_sub(1);
    days * 86_400 + number(9, 11) * 3600 + number(11, 13) * 60 + number(13, 15)
}
