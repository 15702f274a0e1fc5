//! Who may ask: the key, and for a server on the loopback the name it is called by.
//! Knows nothing of what is asked.

use std::{
    hint::black_box,
    net::{IpAddr, SocketAddr},
};

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority};

use super::fault::Fault;

/// Refuses those who may not ask. Not to be printed: it holds the key.
pub struct Guard {
    key: Option<String>,
    is_local: bool,
}

impl Guard {
    pub fn new(key: Option<String>, address: SocketAddr) -> Self {
        Self { key, is_local: address.ip().is_loopback() }
    }

    pub fn asks_for_key(&self) -> bool {
        self.key.is_some()
    }

    /// What is wrong with a key that no client could send: whoever reads it from a file of Windows gets a `\r` with it.
    pub fn fault(key: &str) -> Option<&'static str> {
        if key.trim().is_empty() {
            Some("the API key is empty: it would let everybody in")
        } else if key.contains(char::is_control) {
            Some("the API key holds a control character, such as the end of a line, which no client can send")
        } else if key.trim() != key {
            Some("the API key begins or ends with a space, which no client can send")
        } else {
            None
        }
    }

    /// A page of the web may name its own host `127.0.0.1` in its DNS, and its scripts then speak with this server as
    /// with their own. The `Host` that the browser sends gives them away.
    ///
    /// Two hosts are what requests have that a proxy reads in one way and a server in another (RFC 9112, section 3.2).
    pub fn host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Fault> {
        if headers.get_all(header::HOST).iter().count() > 1 {
            return Err(Fault::new(StatusCode::BAD_REQUEST, "the header `Host` is given more than once"));
        }
        if !self.is_local {
            return Ok(());
        }
        let named = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
        let host = named.as_ref().or(uri.authority()).map(Authority::host).unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_local = bare.parse::<IpAddr>().map_or_else(
            |_| bare.eq_ignore_ascii_case("localhost") || bare.to_ascii_lowercase().ends_with(".localhost"),
            |address| address.is_loopback(),
        );
        if is_local {
            return Ok(());
        }
        let message = format!("this server listens on the loopback only, and is not called {host:?}");
        Err(Fault::new(StatusCode::FORBIDDEN, message).with_code("host_not_allowed"))
    }

    pub fn key(&self, headers: &HeaderMap) -> Result<(), Fault> {
        let Some(key) = &self.key else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let message = match given.map(bearer) {
            Some(Some(given)) if is_same(given, key.as_bytes()) => return Ok(()),
            Some(Some(_)) => "the API key is not this server's",
            Some(None) => "the header `Authorization` is not `Bearer KEY`",
            None => "this server asks for its API key, in the header `Authorization: Bearer KEY`",
        };
        Err(Fault::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key"))
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// Takes as long for a key that is wrong at its first letter as for one wrong at its last.
fn is_same(given: &[u8], key: &[u8]) -> bool {
    let mut differences = given.len() ^ key.len();
    for (at, byte) in given.iter().enumerate() {
        let wanted = key.get(at % key.len().max(1)).copied().unwrap_or_default();
        differences |= usize::from(black_box(byte ^ wanted));
    }
    black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    fn guard(address: &str, key: Option<&str>) -> Guard {
        Guard::new(key.map(str::to_owned), SocketAddr::new(address.parse().unwrap(), 8000))
    }

    #[test]
    fn a_loopback_server_is_called_by_a_loopback_name_only() {
        let uri = Uri::from_static("/v1/models");
        let asked = |guard: &Guard, host: &str| guard.host(&uri, &headers(header::HOST, host)).is_ok();
        let local = guard("127.0.0.1", None);
        for host in ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "127.9.9.9", "a.localhost:80"] {
            assert!(asked(&local, host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:8000", "localhost.evil.example", "192.168.0.1", "", "127.0.0.1.nip.io"]
        {
            assert!(!asked(&local, host), "{host}");
        }
        assert!(local.host(&uri, &HeaderMap::new()).is_err(), "no host at all");
        assert!(asked(&guard("0.0.0.0", None), "anything.example"));
    }

    #[test]
    fn a_key_that_no_client_can_send_is_refused() {
        for key in ["secret\r", "secret\n", "se\0cret", " secret", "secret\u{a0}", " ", "", "\r\n"] {
            assert!(Guard::fault(key).is_some(), "{key:?}");
        }
        assert_eq!(Guard::fault("two words"), None);
    }

    #[test]
    fn only_the_whole_key_opens() {
        let guard = guard("127.0.0.1", Some("secret"));
        let asked = |value: &str| guard.key(&headers(header::AUTHORIZATION, value)).is_ok();
        assert!(asked("Bearer secret") && asked("bearer  secret"));
        for value in
            ["Bearer secreT", "Bearer secre", "Bearer secretsecret", "Bearer ", "Basic secret", "secret", "Bearer"]
        {
            assert!(!asked(value), "{value}");
        }
        assert_eq!(guard.key(&HeaderMap::new()).unwrap_err().status, StatusCode::UNAUTHORIZED);
    }
}
