//! The HTTP server of the page, for this machine only.
//!
//! A page of another site must not reach it through the user's browser. `Host` reveals names that
//! were rebound to this address. `Origin` and `Sec-Fetch-Site` reveal requests of other pages.
//! Commands must be JSON, which no form can send.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::sse::{Event, Sse};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use futures_util::stream;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::command::{Command, Refused};
use super::world::Lab;
use tools::page::{HTML, SCRIPT, STYLE};

/// A browser opens six connections to a host: one is left for commands.
const STREAMS_MAX: usize = 5;
const BODY_BYTES_MAX: usize = 4_096;
/// The time limit of a request.
const REQUEST_AT_MOST: Duration = Duration::from_secs(10);

/// The page loads nothing from elsewhere, and no other page may embed it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

#[derive(Clone)]
struct Site {
    lab: Arc<Lab>,
    streams: Arc<Semaphore>,
    hosts: Arc<[String]>,
}

/// Serves the page.
pub(super) async fn serve(
    listener: TcpListener,
    addr: SocketAddr,
    lab: Arc<Lab>,
) -> std::io::Result<()> {
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, routes(lab, addr)).await
}

fn routes(lab: Arc<Lab>, addr: SocketAddr) -> Router {
    let port = addr.port();
    let site = Site {
        lab,
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        hosts: Arc::new([addr.to_string(), format!("localhost:{port}")]),
    };
    Router::new()
        .route("/", get(|| file("text/html; charset=utf-8", HTML)))
        .route("/page.css", get(|| file("text/css; charset=utf-8", STYLE)))
        .route(
            "/page.js",
            get(|| file("text/javascript; charset=utf-8", SCRIPT)),
        )
        .route("/api/state", get(state))
        .route("/api/events", get(events))
        .route("/api/do", post(perform))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is no such page") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(site.clone(), guard))
        .with_state(site)
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// Returns an error response with a JSON body.
fn error(status: StatusCode, what: impl Into<String>) -> Response {
    let what: String = what.into();
    (status, Json(json!({ "error": what }))).into_response()
}

/// Rejects foreign requests, limits the time of each, and sets the headers of each response.
async fn guard(State(site): State<Site>, request: Request, next: Next) -> Response {
    let answer = match cross_site(&site.hosts, request.method(), request.headers()) {
        Some(what) => error(StatusCode::FORBIDDEN, what),
        None => {
            let answer = tokio::time::timeout(REQUEST_AT_MOST, next.run(request)).await;
            answer.unwrap_or_else(|_| error(StatusCode::REQUEST_TIMEOUT, "not done in time"))
        }
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (AppendHeaders(headers), answer).into_response()
}

/// Returns the reason to reject a request that another site caused.
fn cross_site(hosts: &[String], method: &Method, headers: &HeaderMap) -> Option<&'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let is_ours = |host: &str| hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host));
    if !text(header::HOST).is_some_and(is_ours) {
        return Some("the Host header names another site");
    }
    let origin = text(header::ORIGIN);
    let is_own = |origin: &str| origin.strip_prefix("http://").is_some_and(is_ours);
    if origin.is_some_and(|origin| !is_own(origin)) {
        return Some("the Origin header names another site");
    }
    let from = text(HeaderName::from_static("sec-fetch-site"));
    let is_link = method == Method::GET
        && text(HeaderName::from_static("sec-fetch-mode")) == Some("navigate");
    let is_foreign = from.is_some_and(|from| !matches!(from, "same-origin" | "none"));
    (is_foreign && !is_link).then_some("a page of another site asks")
}

async fn state(State(site): State<Site>) -> Response {
    let (_, told) = site.lab.told_since(0);
    ([(header::CONTENT_TYPE, "application/json")], told).into_response()
}

/// Sends the whole state, and then changes. A slow client misses snapshots, and none are kept for
/// it.
async fn events(State(site): State<Site>) -> Response {
    let Ok(seat) = site.streams.clone().try_acquire_owned() else {
        let what = format!("{STREAMS_MAX} pages are open already; close one");
        return error(StatusCode::SERVICE_UNAVAILABLE, what);
    };
    let (lab, looks) = (site.lab.clone(), site.lab.looks.subscribe());
    let begin = (lab, looks, 0, seat);
    let messages = stream::unfold(begin, async |(lab, mut looks, version, seat)| {
        if version > 0 {
            looks.changed().await.ok()?;
        }
        looks.mark_unchanged();
        let (version, told) = lab.told_since(version);
        let event = Ok::<Event, Infallible>(Event::default().data(told));
        Some((event, (lab, looks, version.max(1), seat)))
    });
    Sse::new(messages).into_response()
}

async fn perform(
    State(site): State<Site>,
    command: Result<Json<Command>, JsonRejection>,
) -> Response {
    let command = match command {
        Ok(Json(command)) => command,
        Err(rejection) => return error(rejection.status(), rejection.body_text()),
    };
    // Runs in its own task, so that a client that disconnects does not interrupt a restart.
    let done = tokio::spawn(async move { site.lab.perform(command).await }).await;
    match done {
        Ok(Ok(())) => Json(json!({ "ok": true })).into_response(),
        Ok(Err(Refused(status, what))) => error(status, what),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "it was not done"),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn strange(method: Method, headers: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let hosts = ["127.0.0.1:7410".to_owned(), "localhost:7410".to_owned()];
        let headers = headers.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        cross_site(&hosts, &method, &headers.collect())
    }

    #[test]
    fn foreign_requests_are_rejected_and_own_ones_pass() {
        let ours = ("host", "127.0.0.1:7410");
        let (get, post) = (Method::GET, Method::POST);
        assert_eq!(strange(get.clone(), &[ours]), None);
        assert_eq!(strange(get.clone(), &[("host", "LocalHost:7410")]), None);
        for host in ["127.0.0.1", "127.0.0.1:80", "evil.example:7410", ""] {
            assert!(strange(get.clone(), &[("host", host)]).is_some(), "{host}");
        }
        assert!(strange(get.clone(), &[]).is_some());
        let own = ("origin", "http://localhost:7410");
        assert_eq!(strange(post.clone(), &[ours, own]), None);
        for origin in ["http://evil.example", "null", "https://127.0.0.1:7410"] {
            assert!(strange(post.clone(), &[ours, ("origin", origin)]).is_some());
        }
        let cross = ("sec-fetch-site", "cross-site");
        assert!(strange(get.clone(), &[ours, cross]).is_some());
        let link = ("sec-fetch-mode", "navigate");
        assert_eq!(
            strange(get, &[ours, cross, link]),
            None,
            "a link to the page"
        );
        assert!(strange(post, &[ours, cross, link]).is_some());
    }
}
