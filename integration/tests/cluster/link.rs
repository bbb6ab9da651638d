//! The line between Weft and its API server.
//!
//! Enters: connections on loopback. Leaves: the same bytes, at the API server. Never: a byte while the line is cut.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A line that can be cut and mended.
pub struct Link {
    /// Where to connect to.
    pub address: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
}

impl Link {
    /// A line to `target` (host and port).
    pub async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let whole = Arc::new(watch::Sender::new(true));
        let state = whole.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target.clone(), state.subscribe()));
            }
        });
        Self { address, whole }
    }

    /// Ends every connection, and every new one at once.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Connections are carried again.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

async fn carry(mut near: TcpStream, target: String, mut whole: watch::Receiver<bool>) {
    if !*whole.borrow() {
        return;
    }
    let both = async {
        if let Ok(mut far) = TcpStream::connect(target).await {
            let _ = near.set_nodelay(true);
            let _ = far.set_nodelay(true);
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
    };
    tokio::select! {
        () = both => {}
        _ = whole.wait_for(|whole| !whole) => {}
    }
}
