//! The threads that judge: each with connections of its own, which it serves in the order in which their requests came.
//!
//! In: connections. Out: their tasks, each on the thread that had the fewest when it came. Never: a task that moves. Judging is all
//! computing, and threads that take tasks from each other serve a request that came late before one that waits: with 50 calls at a time
//! that doubled what the slowest hundredth took.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// After so many tasks a thread looks for what has arrived: whoever came first is next.
const LOOK: u32 = 4;

/// Threads; they end, with whatever they still do, when this is dropped.
#[derive(Debug)]
pub struct Threads(Vec<Thread>);

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped, it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Threads {
    /// Starts so many, at least one.
    ///
    /// # Errors
    /// The kernel's, where there can be no more threads or descriptors.
    pub fn start(count: usize) -> io::Result<Self> {
        let threads = (0..count.max(1)).map(|_| Thread::start());
        Ok(Self(threads.collect::<io::Result<_>>()?))
    }

    /// Serves a connection on the thread that has the fewest.
    pub fn serve<F>(&self, stream: TcpStream, serve: impl FnOnce(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fewest = self
            .0
            .iter()
            .min_by_key(|thread| thread.connections.load(Relaxed));
        let Some(thread) = fewest else { return };
        let one = One::of(&thread.connections);
        // The thread that accepts it has it in its own poll: it is taken from there.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "a connection can't be served"),
        };
        thread.runtime.spawn(async move {
            let _one = one;
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream).await,
                Err(error) => tracing::warn!(%error, "a connection can't be served"),
            }
        });
    }
}

impl Thread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(LOOK)
            .build()?;
        let handle = runtime.handle().clone();
        let (running, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("weft-webhook".to_owned())
            .spawn(move || drop(runtime.block_on(ended)))?;
        Ok(Self {
            runtime: handle,
            connections: Arc::default(),
            _running: running,
        })
    }
}

/// A connection that is counted as long as it is there.
struct One(Arc<AtomicUsize>);

impl One {
    fn of(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn connections_go_where_the_fewest_are() {
        let threads = Threads::start(2).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, mut tells) = mpsc::unbounded_channel();
        let mut open = Vec::new();
        for _ in 0..4 {
            let (connecting, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let told = told.clone();
            threads.serve(accepted.unwrap().0, |stream| async move {
                told.send(std::thread::current().id()).unwrap();
                stream.readable().await.unwrap();
            });
            open.push((connecting.unwrap(), tells.recv().await.unwrap()));
        }
        let first = open[0].1;
        assert_eq!(open.iter().filter(|(_, thread)| *thread == first).count(), 2);
        // Both of one thread end: the next two are its.
        open.retain(|(_, thread)| *thread != first);
        while threads
            .0
            .iter()
            .all(|thread| thread.connections.load(Relaxed) > 0)
        {
            tokio::task::yield_now().await;
        }
        for _ in 0..2 {
            let (connecting, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let told = told.clone();
            threads.serve(accepted.unwrap().0, |_| async move {
                told.send(std::thread::current().id()).unwrap();
                std::future::pending().await
            });
            let _open = connecting.unwrap();
            assert_eq!(tells.recv().await.unwrap(), first);
        }
    }
}
