//! A service over HTTP, with axum.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::extract::{Path as Url, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::put;
use axum::{Extension, Router};
use lockmesh::fence::http::{Admitted, EPOCH_HEADER, FenceLayer, KEY_HEADER, insert_headers};
use lockmesh::fence::{FenceStore, Gate, SavedFences};
use lockmesh::{Epoch, Guard, Key, MeshBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::guide::assert_shows;
use crate::late_write::{KEY, Late, Resource, late_write, start};
use crate::waits::{until, within};

/// Returns the routes of the service. `gate` is the only one for its data.
fn service(gate: Arc<Gate>, balance: Arc<AtomicI64>) -> Router {
    Router::new()
        .route("/accounts/{id}", put(write))
        .route_layer(FenceLayer::new(gate))
        .with_state(balance)
}

async fn write(
    State(balance): State<Arc<AtomicI64>>,
    Url(id): Url<String>,
    Extension(admitted): Extension<Admitted>,
    body: String,
) -> StatusCode {
    // The sender chooses the key: it must be that of the lock for this account.
    if admitted.key.as_str() != format!("account/{id}") {
        return StatusCode::FORBIDDEN;
    }
    let Ok(to) = body.parse() else {
        return StatusCode::UNPROCESSABLE_ENTITY;
    };
    balance.store(to, Ordering::SeqCst);
    StatusCode::NO_CONTENT
}

async fn write_unfenced(State(balance): State<Arc<AtomicI64>>, body: String) -> StatusCode {
    balance.store(body.parse().unwrap(), Ordering::SeqCst);
    StatusCode::NO_CONTENT
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

/// Sends a request over a connection of its own, and returns the status.
async fn send(address: SocketAddr, headers: &HeaderMap, body: &str) -> StatusCode {
    let mut request = format!(
        "PUT /accounts/alice HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    request += &format!("\r\n{body}");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer[9..12].parse().unwrap()
}

fn headers(key: &str, epoch: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(KEY_HEADER, key.parse().unwrap());
    headers.insert(EPOCH_HEADER, epoch.parse().unwrap());
    headers
}

struct Service {
    address: SocketAddr,
    balance: Arc<AtomicI64>,
}

impl Resource for Service {
    async fn write(&self, guard: &Guard, to: i64) -> bool {
        let mut headers = HeaderMap::new();
        insert_headers(&mut headers, guard);
        match send(self.address, &headers, &to.to_string()).await {
            StatusCode::NO_CONTENT => true,
            StatusCode::PRECONDITION_FAILED => false,
            status => panic!("{status}"),
        }
    }

    async fn read(&self) -> i64 {
        self.balance.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn late_request_is_refused() {
    assert_shows("A service over HTTP", include_str!("http.rs"));
    let cluster = start().await;
    let balance = Arc::new(AtomicI64::new(0));
    let address = serve(service(Arc::default(), balance.clone())).await;
    let fenced = Service { address, balance };
    assert_eq!(late_write(&cluster, &fenced).await, Late::Refused);

    let balance = Arc::new(AtomicI64::new(0));
    let router = Router::new().route("/accounts/{id}", put(write_unfenced));
    let address = serve(router.with_state(balance.clone())).await;
    let unfenced = Service { address, balance };
    assert_eq!(late_write(&cluster, &unfenced).await, Late::Landed);
}

#[tokio::test]
async fn later_request_waits_for_earlier_handler() {
    // The holder of epoch 7 pauses in its handler. That of epoch 8 would write at once.
    let (gate, balance) = (Arc::new(Gate::new()), Arc::new(AtomicI64::new(0)));
    let permits = Arc::new([Semaphore::new(0), Semaphore::new(1)]);
    let (may_write, written) = (permits.clone(), balance.clone());
    let handler = move |Extension(admitted): Extension<Admitted>| async move {
        let epoch = admitted.epoch.get();
        may_write[epoch as usize - 7]
            .acquire()
            .await
            .unwrap()
            .forget();
        written.store(epoch as i64, Ordering::SeqCst);
    };
    let router = Router::new().route("/accounts/{id}", put(handler));
    let layer = FenceLayer::new(gate.clone());
    let address = serve(router.route_layer(layer)).await;
    let request = |epoch: u64| {
        let headers = headers(KEY, &epoch.to_string());
        tokio::spawn(async move { send(address, &headers, "").await })
    };

    let key = Key::new(KEY).unwrap();
    let refuses = |epoch| gate.admit(&key, Epoch::new(epoch)).is_err();
    let earlier = request(7);
    until("epoch 7 is admitted", || refuses(6)).await;
    let later = request(8);
    until("epoch 8 is admitted", || refuses(7)).await;
    assert_eq!(balance.load(Ordering::SeqCst), 0, "the later one waits");
    assert_eq!(within("a stale request", request(7)).await.unwrap(), 412);
    permits[0].add_permits(1);
    assert_eq!(within("the earlier", earlier).await.unwrap(), 200);
    assert_eq!(within("the later", later).await.unwrap(), 200);
    assert_eq!(balance.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn malformed_headers_never_reach_the_handler() {
    let balance = Arc::new(AtomicI64::new(0));
    let address = serve(service(Arc::default(), balance.clone())).await;
    let ahead = u64::MAX.to_string();
    let too_long = "k".repeat(257);
    for (key, epoch, status) in [
        (KEY, "7", 204),
        (KEY, "e7", 204),
        ("account%2Falice", "7", 204),
        ("account%2falice", "7", 204),
        (KEY, "6", 412),
        (KEY, "0", 400),
        ("account/bob", "e0", 400),
        ("account/bob", "7", 403),
        (KEY, "", 400),
        (KEY, "-7", 400),
        (KEY, "7.0", 400),
        (KEY, "18446744073709551616", 400),
        (KEY, &ahead, 400),
        ("", "7", 400),
        ("%", "7", 400),
        ("%2", "7", 400),
        ("%+2", "7", 400),
        ("%FF", "7", 400),
        (&too_long, "7", 400),
    ] {
        let got = send(address, &headers(key, epoch), "1").await;
        assert_eq!(got, status, "{key:?} {epoch:?}");
    }
    for name in [KEY_HEADER, EPOCH_HEADER] {
        let mut twice = headers(KEY, "7");
        twice.append(&name, "8".parse().unwrap());
        assert_eq!(send(address, &twice, "2").await, 400);
        let mut missing = headers(KEY, "7");
        missing.remove(&name);
        assert_eq!(send(address, &missing, "2").await, 428);
    }
    assert_eq!(balance.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn any_key_passes_through_the_header() {
    let mesh = MeshBuilder::single("dev").insecure_plaintext();
    let mesh = mesh.start().await.unwrap();
    let handler = |Extension(admitted): Extension<Admitted>| async move {
        let all = "\t% ä/\r\n\u{0}~ ";
        match admitted.key.as_str() == all {
            true => StatusCode::OK,
            false => StatusCode::FORBIDDEN,
        }
    };
    let router = Router::new().route("/accounts/{id}", put(handler));
    let address = serve(router.route_layer(FenceLayer::new(Arc::default()))).await;
    let guard = mesh.lock("\t% ä/\r\n\u{0}~ ").acquire().await.unwrap();
    let mut headers = HeaderMap::new();
    insert_headers(&mut headers, &guard);
    assert_eq!(send(address, &headers, "").await, 200);
    mesh.shutdown().await;
}

#[tokio::test]
async fn failed_store_is_unavailable() {
    struct Full;

    impl FenceStore for Full {
        fn load(&mut self) -> std::io::Result<SavedFences> {
            Ok(SavedFences::default())
        }

        fn save(&mut self, _: &Key, _: Epoch) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }

        fn forget(&mut self, _: &[Key], _: Epoch) -> std::io::Result<()> {
            Ok(())
        }
    }

    let balance = Arc::new(AtomicI64::new(0));
    let gate = Arc::new(Gate::open(1, Full).unwrap());
    let address = serve(service(gate, balance.clone())).await;
    assert_eq!(send(address, &headers(KEY, "7"), "1").await, 503);
    assert_eq!(balance.load(Ordering::SeqCst), 0);
}
