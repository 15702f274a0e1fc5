//! What went wrong with a request, in the shape that OpenAI's clients turn into their exceptions.
//! Knows nothing of what was asked.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub status: StatusCode,
    pub code: Option<&'static str>,
    /// The parameter that is to blame.
    pub param: Option<String>,
    pub message: String,
}

/// Bytes of what a client sent that a message repeats.
const MOST_REPEATED: usize = 200;
/// Bytes of a message: some of what other parts say of a request repeats more of it.
const MOST_MESSAGE: usize = 2000;
/// Seconds after which a client that was told of a full queue may ask again.
const RETRY_AFTER_S: u64 = 1;

impl Fault {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MOST_MESSAGE));
        Self { status, code: None, param: None, message }
    }

    /// A parameter that is not what it must be.
    pub fn parameter(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(cut(&name.into()).to_owned()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// `{"error": {"message", "type", "param", "code"}}`
    pub fn to_json(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

/// As much of a name or text that a client sent as is repeated in a message.
pub fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_REPEATED)]
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_json())).into_response();
        let mut set = |name, value: &'static str| response.headers_mut().insert(name, HeaderValue::from_static(value));
        match self.status {
            StatusCode::UNAUTHORIZED => drop(set(header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = HeaderValue::from(RETRY_AFTER_S);
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
            _ => {}
        }
        response
    }
}
