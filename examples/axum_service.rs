//! A web service with probes, metrics, a locked handler and a graceful shutdown.
//!
//! ```sh
//! cargo run --example axum_service                  # one node on http://127.0.0.1:8080
//! curl -X POST http://127.0.0.1:8080/invoices/42/charge
//! curl http://127.0.0.1:8080/readyz
//! curl http://127.0.0.1:8080/metrics
//! ```
//!
//! In a cluster each instance gets its settings from the environment, as `lockmesh::MeshConfig`
//! lists them:
//!
//! | variable | value |
//! | --- | --- |
//! | `LOCKMESH_NODE_ID` | the stable name of this instance, such as `billing-1` or `${POD_NAME}` |
//! | `LOCKMESH_VOTERS` | the names of all voters, separated by commas |
//! | `LOCKMESH_SEEDS` | `host:port` of nodes that usually run, separated by commas |
//! | `LOCKMESH_SECRET` or `LOCKMESH_SECRET_FILE` | the secret of the cluster, or its file |
//! | `HTTP` | the address on which the service listens |

use std::env;
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use lockmesh::{ConfigError, Epoch, Mesh, MeshBuilder, MeshConfig};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct App {
    mesh: Mesh,
    metrics: PrometheusHandle,
}

/// Returns the settings of this instance. Without a node id it is a cluster of one, for development.
fn builder() -> Result<MeshBuilder, ConfigError> {
    let config = MeshConfig::from_env()?;
    match config.node_id {
        Some(_) => config.into_builder(),
        None => Ok(MeshBuilder::single("dev").insecure_plaintext()),
    }
}

/// Charges an invoice once, even if several instances receive the request at the same time.
async fn charge(State(app): State<App>, Path(invoice): Path<u64>) -> (StatusCode, String) {
    let request = app.mesh.lock(format!("invoice/{invoice}"));
    let guard = match request.try_acquire().await {
        Ok(Some(guard)) => guard,
        Ok(None) => return (StatusCode::CONFLICT, "another request charges it\n".into()),
        Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    let epoch = guard.epoch();
    match guard.run(write_charge(invoice, epoch)).await {
        Ok(()) => (StatusCode::OK, format!("charged at epoch {epoch}\n")),
        Err(lost) => (StatusCode::SERVICE_UNAVAILABLE, format!("{lost}\n")),
    }
}

/// A placeholder for a write fenced with the epoch; see examples/fenced_sqlite.rs.
async fn write_charge(_invoice: u64, _epoch: Epoch) {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Liveness: the process serves requests. The loss of a quorum is no reason to kill it.
async fn livez() -> &'static str {
    "ok\n"
}

/// Readiness: locks can be acquired here, and after a start of this instance also the next one may
/// be restarted. A rolling update waits for it.
async fn readyz(State(app): State<App>) -> (StatusCode, String) {
    match app.mesh.ready(Duration::ZERO).await {
        Ok(()) => (StatusCode::OK, "ok\n".into()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

async fn metrics(State(app): State<App>) -> String {
    app.metrics.run_upkeep();
    app.metrics.render()
}

/// Serves until `stop`, then finishes pending requests, and then shuts the node down.
async fn serve(
    mesh: Mesh,
    listener: TcpListener,
    metrics_handle: PrometheusHandle,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let app = App {
        mesh: mesh.clone(),
        metrics: metrics_handle,
    };
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/invoices/{invoice}/charge", post(charge))
        .with_state(app);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await?;
    mesh.shutdown().await;
    Ok(())
}

/// Returns at SIGTERM, which an orchestrator sends first, or at Ctrl-C.
async fn stopped() {
    let interrupt = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let terminate = async {
            match signal(SignalKind::terminate()) {
                Ok(mut signal) => drop(signal.recv().await),
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = interrupt => {}
            () = terminate => {}
        }
    }
    #[cfg(not(unix))]
    interrupt.await;
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    // Before the mesh, so that its first events are counted.
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let mesh = builder()?.start().await?;
    let http = env::var("HTTP").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let listener = TcpListener::bind(http).await?;
    println!("http://{}", listener.local_addr()?);
    serve(mesh, listener, metrics, stopped()).await
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use lockmesh::Durability;
    use lockmesh_harness::LocalMesh;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn ask(addr: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn service_charges_once_and_stops_in_order() {
        let metrics = PrometheusBuilder::new().install_recorder().unwrap();
        let mesh = builder().unwrap().start().await.unwrap();
        mesh.ready(PATIENCE).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let service = tokio::spawn(serve(mesh.clone(), listener, metrics, stopped));

        assert!(ask(addr, "GET /livez").await.starts_with("HTTP/1.1 200"));
        assert!(ask(addr, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        let charge = || ask(addr, "POST /invoices/42/charge");
        let (one, other) = tokio::join!(charge(), charge());
        let mut codes = [one, other].map(|answer| answer[9..12].to_owned());
        codes.sort();
        assert_eq!(codes, ["200", "409"]);
        let metrics = ask(addr, "GET /metrics").await;
        assert!(metrics.contains("lockmesh_grants_total"), "{metrics}");

        stop.send(()).unwrap();
        service.await.unwrap().unwrap();
        assert!(mesh.lock("k").try_acquire().await.is_err());
    }

    #[tokio::test]
    async fn readyz_waits_until_the_next_may_restart() {
        let cluster = LocalMesh::builder().nodes(3);
        let cluster = cluster.data_dirs(Durability::Process).start().await;
        let cluster = cluster.unwrap();
        for n in 0..3 {
            cluster.node(n).ready(PATIENCE).await.unwrap();
        }
        // One voter is down, and the instance is restarted.
        cluster.crash(2).await;
        cluster.restart(1).await.unwrap();
        let mesh = cluster.node(1);
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(serve(
            mesh.clone(),
            listener,
            metrics,
            std::future::pending(),
        ));

        mesh.watch().wait_for(|it| it.can_lock()).await.unwrap();
        let answer = ask(addr, "GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        let because = "no other voter may be restarted yet";
        assert!(answer.contains(because), "{answer}");
        let answer = ask(addr, "POST /invoices/42/charge").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        cluster.restart(2).await.unwrap();
        mesh.ready(PATIENCE).await.unwrap();
        assert!(ask(addr, "GET /readyz").await.starts_with("HTTP/1.1 200"));
    }
}
