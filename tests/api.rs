//! Traits of the public types that users rely on.

use lockmesh::{
    AcquireError, ClusterSecret, ConfigError, Election, Epoch, Guard, Guards, Health, Leader,
    Leadership, LockAllError, LockAllRequest, LockRequest, Mesh, MeshBuilder, SemaphoreError,
    SemaphoreRequest, Status, SystemClock, UdpTransport, observe::Observer,
};

fn is_send_sync<T: Send + Sync + 'static>() {}

fn is_send<T: Send>(_: T) {}

#[test]
fn public_types_are_send_and_sync() {
    is_send_sync::<Mesh>();
    is_send_sync::<MeshBuilder>();
    is_send_sync::<Guard>();
    is_send_sync::<Guards>();
    is_send_sync::<LockRequest>();
    is_send_sync::<Election>();
    is_send_sync::<Leader>();
    is_send_sync::<Leadership>();
    is_send_sync::<LockAllRequest>();
    is_send_sync::<SemaphoreRequest>();
    is_send_sync::<Status>();
    is_send_sync::<Health>();
    is_send_sync::<Observer>();
    is_send_sync::<ClusterSecret>();
    is_send_sync::<Epoch>();
    is_send_sync::<SystemClock>();
    is_send_sync::<UdpTransport>();
    is_send_sync::<ConfigError>();
    is_send_sync::<AcquireError>();
    is_send_sync::<LockAllError>();
    is_send_sync::<SemaphoreError>();
}

#[tokio::test]
async fn futures_of_the_interface_are_send() {
    let mesh = MeshBuilder::single("a").insecure_plaintext();
    let mesh = mesh.start().await.unwrap();
    is_send(MeshBuilder::single("b").start());
    is_send(mesh.ready(std::time::Duration::ZERO));
    is_send(mesh.inspect("k"));
    is_send(mesh.shutdown());
    is_send(mesh.lock("k").acquire());
    is_send(mesh.lock("k").try_acquire());
    let guard = mesh.lock("k").await.unwrap();
    is_send(guard.lost());
    is_send(guard.run(async {}));
    is_send(guard.extend(std::time::Duration::ZERO));
    is_send(guard.release());
    let semaphore = mesh.semaphore("k", 2);
    is_send(semaphore.clone().acquire());
    is_send(semaphore.clone().try_acquire());
    is_send(semaphore.clone().acquire_many(2));
    is_send(semaphore.try_acquire_many(2));
    let election = mesh.election("e");
    is_send(election.try_campaign());
    let leadership = election.campaign().await.unwrap();
    is_send(leadership.lost());
    is_send(leadership.run(async {}));
    is_send(leadership.resign());
    is_send(mesh.lock_all(["a"]).try_acquire());
    let guards = mesh.lock_all(["a"]).acquire().await.unwrap();
    is_send(guards.lost());
    is_send(guards.run(async {}));
    is_send(guards.extend(std::time::Duration::ZERO));
    is_send(guards.release());
}

#[test]
fn debug_of_an_error_is_its_text() {
    let error = AcquireError::ShutDown;
    assert_eq!(format!("{error:?}"), error.to_string());
}
