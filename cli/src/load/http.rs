//! HTTP targets. Connections are kept and used again, as an ordinary client does.

use super::{Answerer, Class, PATIENCE};
use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::cell::RefCell;
use tokio::net::TcpStream;

/// What to ask.
struct Ask {
    method: Method,
    uri: Uri,
    authority: String,
    name: String,
}

impl Ask {
    fn new(text: &str) -> anyhow::Result<Self> {
        let (method, url) = text
            .split_once('=')
            .with_context(|| format!("{text:?} is not METHOD=URL"))?;
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        let authority = uri
            .authority()
            .with_context(|| format!("{url:?} names no host"))?
            .to_string();
        let name = authority.split(['.', ':']).next().unwrap_or_default().to_owned();
        Ok(Self {
            method: method.parse()?,
            uri,
            authority,
            name,
        })
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, String> {
        let port = self.uri.port_u16().unwrap_or(80);
        let stream = TcpStream::connect((self.uri.host().unwrap_or_default(), port))
            .await
            .map_err(|error| format!("connect: {error}"))?;
        let _ = stream.set_nodelay(true);
        Ok(TokioIo::new(stream))
    }

    fn class(&self) -> Class {
        if self.method.is_safe() {
            Class::Safe
        } else {
            Class::Unsafe
        }
    }

    fn body(&self) -> Full<Bytes> {
        Full::new(if self.method.is_safe() {
            Bytes::new()
        } else {
            Bytes::from_static(b"{\"item\":1}")
        })
    }
}

/// Reads the echo's answer.
async fn read(response: http::Response<hyper::body::Incoming>) -> Result<Answerer, String> {
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| format!("body: {error}"))?
        .to_bytes();
    if !status.is_success() {
        return Err(format!("status {}", status.as_u16()));
    }
    serde_json::from_slice(&body).map_err(|_| "the answer is not the echo's".to_owned())
}

/// Waits, but not for ever.
async fn patient<T>(call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, call)
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// HTTP/1.1 with a pool of kept connections.
pub struct Http1 {
    ask: Ask,
    idle: RefCell<Vec<http1::SendRequest<Full<Bytes>>>>,
}

impl Http1 {
    pub fn new(text: &str) -> anyhow::Result<Self> {
        Ok(Self {
            ask: Ask::new(text)?,
            idle: RefCell::default(),
        })
    }

    pub fn class(&self) -> Class {
        self.ask.class()
    }

    pub fn name(&self) -> &str {
        &self.ask.name
    }

    pub async fn call(&self) -> Result<Answerer, String> {
        patient(self.exchange()).await
    }

    async fn exchange(&self) -> Result<Answerer, String> {
        let kept = {
            let mut idle = self.idle.borrow_mut();
            idle.retain(|sender| !sender.is_closed());
            idle.pop()
        };
        let mut sender = match kept {
            Some(sender) => sender,
            None => {
                let (sender, connection) = http1::handshake(self.ask.connect().await?)
                    .await
                    .map_err(|error| error.to_string())?;
                tokio::task::spawn_local(connection);
                sender
            }
        };
        let path = self.ask.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::builder()
            .method(&self.ask.method)
            .uri(path)
            .header(http::header::HOST, &self.ask.authority)
            .body(self.ask.body())
            .map_err(|error| error.to_string())?;
        sender.ready().await.map_err(|error| format!("send: {error}"))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| format!("send: {error}"))?;
        let answer = read(response).await;
        if sender.ready().await.is_ok() {
            self.idle.borrow_mut().push(sender);
        }
        answer
    }
}

/// HTTP/2 over one connection, made again when it has ended.
pub struct Http2 {
    ask: Ask,
    connection: tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl Http2 {
    pub fn new(text: &str) -> anyhow::Result<Self> {
        Ok(Self {
            ask: Ask::new(text)?,
            connection: tokio::sync::Mutex::default(),
        })
    }

    pub fn class(&self) -> Class {
        self.ask.class()
    }

    pub fn name(&self) -> &str {
        &self.ask.name
    }

    pub async fn call(&self) -> Result<Answerer, String> {
        let request = Request::builder()
            .method(&self.ask.method)
            .uri(&self.ask.uri)
            .body(self.ask.body())
            .map_err(|error| error.to_string())?;
        patient(async { read(self.send(request).await?).await }).await
    }

    /// Sends a request over the shared connection.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<http::Response<hyper::body::Incoming>, String> {
        let mut sender = {
            let mut shared = self.connection.lock().await;
            match shared.as_ref().filter(|sender| !sender.is_closed()) {
                Some(sender) => sender.clone(),
                None => {
                    let io = self.ask.connect().await?;
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                        .await
                        .map_err(|error| error.to_string())?;
                    tokio::task::spawn_local(connection);
                    shared.insert(sender).clone()
                }
            }
        };
        sender.ready().await.map_err(|error| format!("send: {error}"))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| format!("send: {error}"))
    }
}
