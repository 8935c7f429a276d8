//! The client's side of `/status`, for whoever looks at a sidecar from outside.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::MAX_BODY;
use crate::contract::{ErrorBody, Status};
use crate::error::{Cause, Error, Result};

/// How long a sidecar has to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a sidecar listens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// On a TCP address.
    Tcp(SocketAddr),
    /// On a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Asks the sidecar at `address` which execution it works on, and how far it is.
///
/// # Errors
/// [`Error::Unavailable`] when nothing answers within 10 seconds, [`Error::Refused`] with what it answers otherwise, as
/// when the secret is another.
pub async fn ask(address: &Address, secret: &str) -> Result<Status> {
    const ACTION: &str = "tell its status";
    let unavailable = |error: Cause| Error::unavailable(address, ACTION, error);
    let answered = tokio::time::timeout(TIMEOUT, answer(address, secret)).await;
    let (status, body) =
        answered.map_err(|_| unavailable("no answer within 10 s".into()))?.map_err(unavailable)?;
    if status != StatusCode::OK {
        let said = serde_json::from_slice(&body).map(|body: ErrorBody| body.message);
        return Err(Error::refused(address, ACTION, said.unwrap_or_else(|_| status.to_string())));
    }
    serde_json::from_slice(&body).map_err(|error| Error::refused(address, ACTION, error))
}

async fn answer(address: &Address, secret: &str) -> Result<(StatusCode, Vec<u8>), Cause> {
    let request = Request::get("/status").header(header::HOST, "localhost").header("secret", secret);
    let request = request.body(Body::empty())?;
    let (mut sender, connection) = match address {
        Address::Tcp(address) => {
            let (sender, connection) = handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
            (sender, futures_util::future::Either::Left(connection))
        }
        Address::Unix(path) => {
            let (sender, connection) = handshake(TokioIo::new(UnixStream::connect(path).await?)).await?;
            (sender, futures_util::future::Either::Right(connection))
        }
    };
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, to_bytes(Body::new(answer.into_body()), MAX_BODY).await?.to_vec()))
    };
    // The connection ends when the sender is dropped, and moves the bytes until then.
    tokio::select! {
        answered = exchange => answered,
        ended = connection => {
            ended?;
            Err("the connection was closed".into())
        }
    }
}
