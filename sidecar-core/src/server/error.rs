//! How errors look over HTTP: one table from what went wrong to status, and one body.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::RETRY_AFTER;
use crate::contract::ErrorBody;
use crate::error::Error;

#[derive(Debug)]
pub(super) struct HttpError {
    pub(super) body: ErrorBody,
    retry_after: Option<Duration>,
}

impl HttpError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let body = ErrorBody {
            status_code: status.as_u16(),
            message: message.into(),
            retryable: false,
            problems: Vec::new(),
        };
        Self { body, retry_after: None }
    }
}

impl From<Arc<Error>> for HttpError {
    fn from(error: Arc<Error>) -> Self {
        let mut answer = Self::new(status(&error), error.chain());
        answer.body.retryable = error.is_retryable();
        if let Error::Invalid(problems) = &*error {
            answer.body.problems.clone_from(problems);
        }
        answer.retry_after = match &*error {
            Error::Unavailable { retry_after, .. } => Some(retry_after.unwrap_or(RETRY_AFTER)),
            Error::NoEventYet { .. } | Error::DiskFull { .. } | Error::Abandoned { .. } | Error::Finished => {
                Some(RETRY_AFTER)
            }
            _ => None,
        };
        answer
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.body.status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body)).into_response();
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn status(error: &Error) -> StatusCode {
    match error {
        Error::Unavailable { .. } | Error::NoEventYet { .. } | Error::Abandoned { .. } | Error::Finished => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Error::Refused { .. }
        | Error::Settings { .. }
        | Error::NotFound { .. }
        | Error::Absent { .. }
        | Error::UnknownEvent { .. }
        | Error::Reference { .. }
        | Error::Corrupt { .. } => StatusCode::BAD_GATEWAY,
        Error::Invalid(_) | Error::Submission(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Error::OutOfOrder { .. } | Error::RunNotOpen { .. } | Error::NotHeld { .. } => StatusCode::CONFLICT,
        Error::DiskFull { .. } | Error::TooLarge { .. } => StatusCode::INSUFFICIENT_STORAGE,
        Error::Io { .. } | Error::Busy(_) | Error::NotLoaded { .. } | Error::Internal(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Phase, Problem};

    #[test]
    fn every_error_has_its_status() {
        let (provider, action) = ("p".to_owned(), "a".to_owned());
        let (key, what, problem) = ("k".to_owned(), "w".to_owned(), "x".to_owned());
        let path = std::path::PathBuf::from("f");
        let retry_after = Some(Duration::from_millis(2500));
        let unavailable = Error::Unavailable {
            provider: provider.clone(),
            action: action.clone(),
            retry_after,
            source: "s".into(),
        };
        for (error, status, retryable, after) in [
            (unavailable, 503, true, Some("3")),
            (Error::Refused { provider: provider.clone(), action, source: "s".into() }, 502, false, None),
            (Error::NoEventYet { provider: provider.clone(), event: key.clone() }, 503, true, Some("1")),
            (Error::Finished, 503, true, Some("1")),
            (Error::NotFound { provider: provider.clone(), key }, 502, false, None),
            (Error::Corrupt { provider, what, problem }, 502, false, None),
            (Error::Invalid(vec![Problem::of("f", "m")]), 422, false, None),
            (Error::OutOfOrder { call: "c", phase: Phase::New, hint: "h".into() }, 409, false, None),
            (Error::DiskFull { action: "write", path: path.clone() }, 507, true, Some("1")),
            (Error::TooLarge { what: "inputs", bytes: 2, limit: 1 }, 507, false, None),
            (Error::io("read", path)(std::io::Error::other("o")), 500, false, None),
        ] {
            let answer = HttpError::from(Arc::new(error));
            assert_eq!((answer.body.status_code, answer.body.retryable), (status, retryable));
            let response = answer.into_response();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers().get(header::RETRY_AFTER).map(|v| v.to_str().unwrap()), after);
        }
    }
}
