//! gRPC targets: unary calls of `weft.echo.v1.Echo/Say`.

use super::http::Http2;
use super::{Answerer, PATIENCE};
use crate::echo::grpc::{SayReply, SayRequest, framed};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;

/// One service, over one connection.
pub struct Grpc {
    connection: Http2,
    uri: String,
}

impl Grpc {
    pub fn new(address: &str) -> anyhow::Result<Self> {
        let uri = format!("http://{address}/weft.echo.v1.Echo/Say");
        Ok(Self {
            connection: Http2::new(&format!("POST={uri}"))?,
            uri,
        })
    }

    pub fn name(&self) -> &str {
        self.connection.name()
    }

    pub async fn call(&self) -> Result<Answerer, String> {
        let message = SayRequest {
            text: "hello".to_owned(),
        }
        .encode_to_vec();
        let request = Request::post(&self.uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::<Bytes>::new(framed(&message)))
            .map_err(|error| error.to_string())?;
        let call = async {
            let response = self.connection.send(request).await?;
            let status = response.status();
            if !status.is_success() {
                return Err(format!("status {}", status.as_u16()));
            }
            let refused = grpc_status(response.headers());
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|error| format!("body: {error}"))?;
            let status = refused.or_else(|| body.trailers().and_then(grpc_status));
            match status.as_deref() {
                Some("0") => {}
                Some(code) => return Err(format!("grpc-status {code}")),
                None => return Err("no grpc-status".to_owned()),
            }
            let bytes = body.to_bytes();
            let reply = bytes
                .get(5..)
                .and_then(|message| SayReply::decode(message).ok())
                .ok_or_else(|| "the answer is not the echo's".to_owned())?;
            Ok(Answerer {
                pod: reply.pod,
                region: reply.region,
                zone: reply.zone,
            })
        };
        tokio::time::timeout(PATIENCE, call)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<String> {
    headers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}
