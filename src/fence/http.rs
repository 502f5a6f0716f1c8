//! A tower layer that checks the epochs of requests (feature `tower`).
//!
//! The holder sends two headers with each request, which [`insert_headers`] writes:
//!
//! | header | value |
//! | --- | --- |
//! | `lockmesh-key` | the key of the lock; bytes other than printable ASCII, and `%`, are percent-encoded |
//! | `lockmesh-epoch` | the epoch of the guard: digits, with or without an `e` before them |
//!
//! The [`FenceLayer`] of the service answers in place of the handler if it may not write:
//!
//! | status | if |
//! | --- | --- |
//! | 400 | a header is malformed or repeated, or the epoch is 0 or more than a day ahead of the clock |
//! | 412 | the epoch is stale, or may be: a later holder has written, or the fence was forgotten |
//! | 428 | both headers are missing, or one is |
//! | 503 | the [`FenceStore`](super::FenceStore) failed |
//!
//! Put the layer on the routes that write. Each handler compares the key of [`Admitted`] with the
//! lock that guards what it writes, since the sender chooses the key.

use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use lockmesh_proto::{Epoch, Key};
use tower_layer::Layer;
use tower_service::Service;

use super::gate::{AdmitError, Gate};
use crate::guard::Guard;

/// The name of the header with the key.
pub const KEY_HEADER: HeaderName = HeaderName::from_static("lockmesh-key");
/// The name of the header with the epoch.
pub const EPOCH_HEADER: HeaderName = HeaderName::from_static("lockmesh-epoch");

/// Writes the key and the epoch of `guard` into the headers of a request, in place of others.
pub fn insert_headers(headers: &mut HeaderMap, guard: &Guard) {
    headers.insert(KEY_HEADER, encode(guard.key()));
    headers.insert(EPOCH_HEADER, guard.epoch().get().into());
}

fn encode(key: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    // Printable ASCII, which is valid in a header.
    HeaderValue::from_str(&encoded).unwrap_or(HeaderValue::from_static(""))
}

/// Returns `None` if a `%` is not followed by two hexadecimal digits, or if the text is no key.
fn decode(value: &HeaderValue) -> Option<Key> {
    let mut decoded = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let byte = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                let digit = |digit: &u8| char::from(*digit).to_digit(16);
                (digit(high)? * 16 + digit(low)?).try_into().ok()?
            }
            (b'%', _) => return None,
            (byte, _) => *byte,
        };
        decoded.push(byte);
    }
    Key::new(std::str::from_utf8(&decoded).ok()?).ok()
}

/// The key and the epoch of a request that was admitted: an extension of the request.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Admitted {
    /// The key that the sender holds, as it says. Compare it with the lock of the resource.
    pub key: Key,
    /// The epoch, for fences of resources behind this service.
    pub epoch: Epoch,
}

impl Admitted {
    fn of(headers: &HeaderMap) -> Result<Self, StatusCode> {
        let single = |name| {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (Some(value), None) => Ok(value),
                (None, _) => Err(StatusCode::PRECONDITION_REQUIRED),
                (Some(_), Some(_)) => Err(StatusCode::BAD_REQUEST),
            }
        };
        let (key, epoch) = (single(KEY_HEADER)?, single(EPOCH_HEADER)?);
        let epoch = epoch.to_str().ok().and_then(|epoch| epoch.parse().ok());
        let parsed = decode(key).zip(epoch);
        let (key, epoch) = parsed.ok_or(StatusCode::BAD_REQUEST)?;
        Ok(Self { key, epoch })
    }
}

/// A layer whose services call their handler under a [`Pass`](super::Pass) of a gate.
///
/// The pass lives until the handler has returned its response, or its future is dropped. A handler
/// that leaves its write to another task must hold a pass of its own there.
///
/// A request of a later holder waits for the handlers of earlier ones. Limit the time of handlers,
/// for example with a timeout inside this layer.
#[derive(Clone, Debug)]
pub struct FenceLayer {
    gate: Arc<Gate>,
}

impl FenceLayer {
    /// Returns a layer that asks `gate`. Layers with one gate share its fences.
    #[must_use]
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for FenceLayer {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced {
            inner,
            gate: self.gate.clone(),
        }
    }
}

/// A service behind a [`FenceLayer`].
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S, B, R> Service<Request<B>> for Fenced<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let gate = self.gate.clone();
        // The service that is ready handles this request, and its clone the next.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let admitted = match Admitted::of(request.headers()) {
                Ok(admitted) => admitted,
                Err(status) => return Ok(refuse(status)),
            };
            match gate.enter(&admitted.key, admitted.epoch).await {
                Err(error) => Ok(refuse(status_of(&error))),
                Ok(_pass) => {
                    request.extensions_mut().insert(admitted);
                    inner.call(request).await
                }
            }
        })
    }
}

fn status_of(error: &AdmitError) -> StatusCode {
    match error {
        AdmitError::Stale { .. } | AdmitError::Forgotten { .. } => StatusCode::PRECONDITION_FAILED,
        AdmitError::OutOfBounds { .. } => StatusCode::BAD_REQUEST,
        AdmitError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn refuse<R: Default>(status: StatusCode) -> Response<R> {
    let mut response = Response::new(R::default());
    *response.status_mut() = status;
    response
}
