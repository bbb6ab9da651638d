//! TCP targets: a line goes, a line comes back behind the answering pod's name, region and zone.

use super::{Answerer, PATIENCE};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

async fn connect(address: &str) -> Result<BufStream<TcpStream>, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("connect: {error}"))?;
    let _ = stream.set_nodelay(true);
    Ok(BufStream::with_capacity(512, 512, stream))
}

async fn exchange(stream: &mut BufStream<TcpStream>) -> Result<Answerer, String> {
    stream
        .write_all(b"hello\n")
        .await
        .map_err(|error| format!("send: {error}"))?;
    stream.flush().await.map_err(|error| format!("send: {error}"))?;
    let mut line = String::new();
    let read = stream
        .read_line(&mut line)
        .await
        .map_err(|error| format!("read: {error}"))?;
    let mut words = line.split(' ').map(str::to_owned);
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(pod), Some(region), Some(zone), Some(_)) => Ok(Answerer { pod, region, zone }),
        _ if read == 0 => Err("closed without an answer".to_owned()),
        _ => Err("the answer is not the echo's".to_owned()),
    }
}

/// A new connection for every line.
pub struct Tcp {
    address: String,
}

impl Tcp {
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
        }
    }

    pub fn name(&self) -> &str {
        self.address.split(['.', ':']).next().unwrap_or_default()
    }

    pub async fn call(&self) -> Result<Answerer, String> {
        let call = async { exchange(&mut connect(&self.address).await?).await };
        tokio::time::timeout(PATIENCE, call)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

/// One connection for all lines.
pub struct Stream {
    address: String,
    connection: Mutex<Option<BufStream<TcpStream>>>,
}

impl Stream {
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            connection: Mutex::default(),
        }
    }

    pub fn name(&self) -> &str {
        self.address.split(['.', ':']).next().unwrap_or_default()
    }

    pub async fn call(&self) -> Result<Answerer, String> {
        let mut connection = self.connection.lock().await;
        let call = async {
            // A connection that the other side has ended is no failure: it was ended between two lines.
            let kept = connection.take().filter(|stream| {
                let mut byte = [0];
                matches!(stream.get_ref().try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            });
            let mut stream = match kept {
                Some(stream) => stream,
                None => connect(&self.address).await?,
            };
            let answer = exchange(&mut stream).await?;
            *connection = Some(stream);
            Ok(answer)
        };
        tokio::time::timeout(PATIENCE, call)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}
