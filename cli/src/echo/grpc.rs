//! The gRPC side of the echo: `weft.echo.v1.Echo` and `grpc.health.v1.Health/Check`.

use super::{Body, Me, peer};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message as _;
use std::convert::Infallible;
use std::sync::Arc;

/// Longest message, in bytes (gRPC's usual bound).
const LONGEST_MESSAGE: usize = 4 << 20;

/// `weft.echo.v1.SayRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SayRequest {
    /// What to say.
    #[prost(string, tag = "1")]
    pub text: String,
}

/// `weft.echo.v1.SayReply`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SayReply {
    /// What was said.
    #[prost(string, tag = "1")]
    pub text: String,
    /// Which pod answered.
    #[prost(string, tag = "2")]
    pub pod: String,
    /// Its region.
    #[prost(string, tag = "3")]
    pub region: String,
    /// Its zone.
    #[prost(string, tag = "4")]
    pub zone: String,
    /// The caller's SPIFFE id.
    #[prost(string, tag = "5")]
    pub peer: String,
}

pub(super) async fn answer(request: Request<Incoming>, me: Arc<Me>) -> Response<Body> {
    super::http1::delay().await;
    let peer = peer(request.headers());
    let (parts, mut body) = request.into_parts();
    let health = match parts.uri.path() {
        "/weft.echo.v1.Echo/Say" | "/weft.echo.v1.Echo/Chat" => false,
        "/grpc.health.v1.Health/Check" => true,
        _ => {
            return trailers_only(
                "12",
                "the echo serves weft.echo.v1.Echo/Say, /Chat and grpc.health.v1.Health/Check",
            );
        }
    };
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(16);
    tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        let mut status = ("0", "");
        'read: while let Some(frame) = body.frame().await {
            let Some(data) = frame.ok().and_then(|frame| frame.into_data().ok()) else {
                break;
            };
            buffer.extend_from_slice(&data);
            loop {
                let message = match next(&mut buffer) {
                    Ok(Some(message)) => message,
                    Ok(None) => break,
                    Err(reason) => {
                        status = ("3", reason);
                        break 'read;
                    }
                };
                // HealthCheckResponse { status: SERVING }
                let reply = if health {
                    Bytes::from_static(&[8, 1])
                } else {
                    say(&message, &me, &peer)
                };
                if sender.send(Ok(Frame::data(framed(&reply)))).await.is_err() {
                    return;
                }
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status.0));
        if !status.1.is_empty() {
            trailers.insert("grpc-message", HeaderValue::from_static(status.1));
        }
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    let mut response =
        Response::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Takes the next length-prefixed message off the buffer.
fn next(buffer: &mut BytesMut) -> Result<Option<Bytes>, &'static str> {
    let Some(prefix) = buffer.first_chunk::<5>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if prefix[0] != 0 {
        return Err("compressed messages are not read here");
    }
    if length > LONGEST_MESSAGE {
        return Err("the message is larger than 4 MiB");
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

fn say(message: &[u8], me: &Me, peer: &str) -> Bytes {
    let text = SayRequest::decode(message)
        .map(|request| request.text)
        .unwrap_or_default();
    let reply = SayReply {
        text,
        pod: me.pod.clone(),
        region: me.region.clone(),
        zone: me.zone.clone(),
        peer: peer.to_owned(),
    };
    reply.encode_to_vec().into()
}

/// A message behind its length prefix.
pub fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(message);
    out.freeze()
}

fn trailers_only(status: &'static str, message: &'static str) -> Response<Body> {
    let mut response = Response::new(http_body_util::Empty::new().boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    headers.insert("grpc-message", HeaderValue::from_static(message));
    response
}
