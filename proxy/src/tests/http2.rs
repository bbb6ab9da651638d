use super::*;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response};

/// An application: `/echo` echoes the body and its trailers, `/reset` resets, everything else says what it was asked.
async fn serve(socket: TcpStream, number: usize) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        spawn_local(async move {
            let (head, mut body) = request.into_parts();
            match head.uri.path() {
                "/reset" => respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM),
                "/echo" => {
                    let mut out = respond.send_response(Response::new(()), false).unwrap();
                    while let Some(data) = body.data().await {
                        let Ok(data) = data else { return };
                        body.flow_control().release_capacity(data.len()).unwrap();
                        out.send_data(data, false).unwrap();
                    }
                    let mut trailers = body.trailers().await.unwrap().unwrap_or_default();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    out.send_trailers(trailers).unwrap();
                }
                _ => {
                    let identity = head.headers.get("x-forwarded-client-cert");
                    let text = format!("{number} {} {} {identity:?}", head.method, head.uri);
                    let mut out = respond.send_response(Response::new(()), false).unwrap();
                    out.send_data(text.into(), true).unwrap();
                }
            }
        });
    }
}

async fn client(mesh: &Mesh) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(mesh.connect().await).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    client
}

fn request(method: Method, path: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri(format!("http://cart{path}"))
        .header("x-forwarded-client-cert", "spoofed")
        .body(())
        .unwrap()
}

async fn body(mut body: h2::RecvStream) -> Result<(String, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((String::from_utf8(all).unwrap(), body.trailers().await?))
}

#[test]
fn streams_share_one_connection_and_carry_the_callers_identity() {
    run(async {
        let app = application(serve).await;
        let mesh = Mesh::start(Protocol::Grpc, &[app]).await;
        let client = client(&mesh).await;
        let one = async |n: usize| {
            let mut client = client.clone().ready().await.unwrap();
            let (response, _) = client
                .send_request(request(Method::GET, &format!("/a/./{n}")), true)
                .unwrap();
            let (text, _) = body(response.await.unwrap().into_body()).await.unwrap();
            assert_eq!(
                text,
                format!(
                    "0 GET http://cart/a/{n} Some(\"By=spiffe://cluster.local/ns/shop/sa/cart;URI=spiffe://cluster.local/ns/shop/sa/web\")"
                )
            );
        };
        let mut all = Vec::new();
        for n in 0..50 {
            all.push(one(n));
        }
        futures_util::future::join_all(all).await;
    });
}

#[test]
fn bodies_and_trailers_pass_both_ways_at_once() {
    run(async {
        let app = application(serve).await;
        let mesh = Mesh::start(Protocol::Detect, &[app]).await;
        for size in [0, 1, 70_000, 5_000_000] {
            let mut client = client(&mesh).await.ready().await.unwrap();
            let mut request = request(Method::POST, "/echo");
            request
                .headers_mut()
                .insert("content-type", "application/grpc".parse().unwrap());
            let (response, mut sink) = client.send_request(request, false).unwrap();
            let text = "x".repeat(size);
            let sending = async {
                let mut rest = Bytes::from(text.clone());
                while !rest.is_empty() {
                    sink.reserve_capacity(rest.len());
                    let room = std::future::poll_fn(|cx| sink.poll_capacity(cx))
                        .await
                        .unwrap()
                        .unwrap();
                    sink.send_data(rest.split_to(room.min(rest.len())), false)
                        .unwrap();
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", "7".parse().unwrap());
                sink.send_trailers(trailers).unwrap();
            };
            let reading = async { body(response.await.unwrap().into_body()).await.unwrap() };
            let ((), (answer, trailers)) = tokio::join!(sending, reading);
            assert!(answer == text, "{size} bytes");
            let trailers = trailers.unwrap();
            assert!(trailers["x-sum"] == "7" && trailers["grpc-status"] == "0");
        }
        let page = mesh.caller.page();
        assert!(
            page.contains("request_protocol=\"grpc\"") && page.contains("grpc_response_status=\"0\""),
            "{page}"
        );
    });
}

#[test]
fn resets_pass_with_their_reason() {
    run(async {
        let app = application(serve).await;
        let mesh = Mesh::start(Protocol::Http2, &[app]).await;
        let mut client = client(&mesh).await.ready().await.unwrap();
        let (response, _) = client
            .send_request(request(Method::POST, "/reset"), true)
            .unwrap();
        let answer = response.await;
        assert!(
            answer.as_ref().is_ok_and(|answer| answer.status() == 503),
            "{answer:?}"
        );
    });
}

#[test]
fn an_endpoint_without_application_is_passed_over() {
    run(async {
        let app = application(serve).await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = gone.local_addr().unwrap();
        drop(gone);
        let mesh = Mesh::start(Protocol::Grpc, &[app, dead]).await;
        let client = client(&mesh).await;
        for _ in 0..20 {
            let mut client = client.clone().ready().await.unwrap();
            let (response, mut sink) = client
                .send_request(request(Method::POST, "/echo"), false)
                .unwrap();
            sink.send_data(Bytes::from_static(b"hello"), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(body(response.into_body()).await.unwrap().0, "hello");
        }
    });
}

#[test]
fn a_flood_of_streams_taken_back_ends_the_connection() {
    run(async {
        let app = application(serve).await;
        let mesh = Mesh::start(Protocol::Http2, &[app]).await;
        let client = client(&mesh).await;
        let mut frames = 0;
        loop {
            let Ok(mut ready) = client.clone().ready().await else {
                break;
            };
            let Ok((response, mut sink)) = ready.send_request(request(Method::POST, "/echo"), false) else {
                break;
            };
            tokio::task::yield_now().await;
            sink.send_reset(h2::Reason::CANCEL);
            drop(response);
            frames += 2;
            assert!(frames < 5_000, "the connection still stands");
        }
        let fresh = self::client(&mesh).await;
        let mut fresh = fresh.ready().await.unwrap();
        let (response, _) = fresh.send_request(request(Method::GET, "/"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    });
}

/// Sends so many bytes to be echoed, and counts what comes back.
async fn echoed(client: &SendRequest<Bytes>, size: usize) -> usize {
    let mut client = client.clone().ready().await.unwrap();
    let (response, mut up) = client
        .send_request(request(Method::POST, "/echo"), false)
        .unwrap();
    let sending = async {
        let mut left = Bytes::from(vec![b'x'; size]);
        while !left.is_empty() {
            up.reserve_capacity(left.len());
            let room = std::future::poll_fn(|cx| up.poll_capacity(cx))
                .await
                .unwrap()
                .unwrap();
            up.send_data(left.split_to(room.min(left.len())), false).unwrap();
        }
        up.send_data(Bytes::new(), true).unwrap();
    };
    let receiving = async {
        let mut body = response.await.unwrap().into_body();
        let mut count = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            count += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        count
    };
    tokio::join!(sending, receiving).1
}

#[test]
fn windows_widen_for_few_streams_and_narrow_for_many() {
    run(async {
        let app = application(serve).await;
        let mesh = Mesh::start(Protocol::Http2, &[app]).await;
        let client = client(&mesh).await;
        for _ in 0..3 {
            assert_eq!(echoed(&client, 3 << 20).await, 3 << 20);
            let many = (0..20).map(|_| echoed(&client, 300_000));
            assert_eq!(futures_util::future::join_all(many).await, [300_000; 20]);
        }
    });
}

#[test]
fn a_stream_that_stands_still_stops_no_other() {
    run(async {
        let app = application(serve).await;
        let mesh = Mesh::start(Protocol::Http2, &[app]).await;
        let still = client(&mesh).await;
        let mut held = Vec::new();
        for _ in 0..60 {
            // Each sends what it may and reads nothing of what comes back.
            let mut one = still.clone().ready().await.unwrap();
            let (response, mut up) = one.send_request(request(Method::POST, "/echo"), false).unwrap();
            up.send_data(Bytes::from(vec![b'x'; 200_000]), false).unwrap();
            held.push((response.await.unwrap(), up));
        }
        let other = client(&mesh).await;
        assert_eq!(echoed(&other, 1 << 20).await, 1 << 20);
        drop(held);
    });
}
