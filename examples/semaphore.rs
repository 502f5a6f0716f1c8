//! At most two of six workers, on two nodes, use a service at once. `cargo run --example semaphore`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockmesh_harness::LocalMesh;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Three nodes in this process. In production each is in a process of its own.
    let cluster = LocalMesh::start(3).await?;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let workers = (0..6).map(|n| {
        let mesh = cluster.node(n % 2);
        let (running, most) = (running.clone(), most.clone());
        tokio::spawn(async move {
            // Every node gives the same number of permits.
            let permit = mesh.semaphore("licence", 2).acquire().await?;
            println!("{} works with {permit:?}", mesh.id());
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let work = permit
                .run(tokio::time::sleep(Duration::from_millis(50)))
                .await;
            running.fetch_sub(1, Ordering::SeqCst);
            work.map_err(|lost| lost.to_string())?;
            permit.release().await.map_err(|late| late.to_string())?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await?.map_err(|error| error.to_string())?;
    }
    let most = most.load(Ordering::SeqCst);
    println!("at most {most} worked at once");
    assert!(most <= 2);
    Ok(())
}
