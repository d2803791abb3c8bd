//! Connections: accepted within a number, encrypted where that is asked, closed where they are slow, drained at the end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

use super::admission::Peer;
use super::routes;
use super::shared::Shared;
use super::{Event, Tls};

/// Out of file descriptors, for example: it may pass.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    tls: Option<Tls>,
    until: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let connections = Connections { router: routes::router(shared.clone()), shared: shared.clone(), tls };
    let connections = Arc::new(connections);
    let places = Arc::new(Semaphore::new(shared.limits.connections));
    let graceful = GracefulShutdown::new();
    let mut until = pin!(until);
    loop {
        let accepted = async {
            // Never closed.
            let place = places.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut until => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (connections, watcher) = (connections.clone(), graceful.watcher());
                tokio::spawn(async move {
                    let _counted = connections.shared.metrics.connection();
                    connections.answer(stream, peer, watcher).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    drop(listener);
    shared.drain();
    (shared.events)(Event::Draining);
    if tokio::time::timeout(shared.limits.drain_time, graceful.shutdown()).await.is_err() {
        let connections = shared.limits.connections.saturating_sub(places.available_permits());
        (shared.events)(Event::Cut { connections });
    }
    Ok(())
}

struct Connections {
    router: Router,
    shared: Arc<Shared>,
    tls: Option<Tls>,
}

impl Connections {
    async fn answer(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
        // Answers are written whole: waiting for more to send gains nothing.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.shared.limits.header_time));
        let stream = Box::pin(stream);
        match &self.tls {
            None => self.speak(stream, peer, watcher).await,
            Some(Tls(acceptor)) => {
                let shaken = tokio::time::timeout(self.shared.limits.header_time, acceptor.accept(stream));
                // Whoever does not finish the handshake has nobody to be told.
                if let Ok(Ok(stream)) = shaken.await {
                    self.speak(stream, peer, watcher).await;
                }
            }
        }
    }

    async fn speak<S>(&self, stream: S, peer: SocketAddr, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.shared.limits.header_time)
            .serve_connection(TokioIo::new(stream), service);
        // A connection that breaks is its peer's affair.
        let _ = watcher.watch(connection).await;
    }
}
