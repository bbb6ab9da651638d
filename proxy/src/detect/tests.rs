use super::*;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    (client, listener.accept().await.unwrap().0)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test]
async fn first_bytes_decide() {
    for (bytes, question, wanted) in [
        (&b"GET / HTTP/1.1\r\n"[..], Question::Any, First::Http1),
        (b"OPTIONS * HTTP/1.1\r\n", Question::Any, First::Http1),
        (b"CONNECT db:5432 HTTP/1.1\r\n", Question::Any, First::Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Question::Any, First::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Question::Http, First::Http2),
        (b"GET key\r\n", Question::Any, First::Opaque),
        (b"get key\r\n", Question::Any, First::Opaque),
        (b"get key\r\n", Question::Http, First::Http1),
        (b"BREW / HTTP/1.1\r\n", Question::Http, First::Http1),
        (b"PRINT\r\n", Question::Any, First::Opaque),
        (b"\x16\x02\x01garbage", Question::Any, First::Opaque),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Question::Any, First::Opaque),
    ] {
        let (mut client, server) = pair().await;
        client.write_all(bytes).await.unwrap();
        assert_eq!(
            first(&server, question, soon()).await.unwrap(),
            wanted,
            "{bytes:?}"
        );
    }
}

#[tokio::test]
async fn a_byte_at_a_time_is_enough() {
    for (text, wanted) in [
        (&b"PRI * HTTP/2.0\r\n"[..], First::Http2),
        (b"DELETE /", First::Http1),
        (b"DELIGHT", First::Opaque),
    ] {
        let (mut client, server) = pair().await;
        let sender = async {
            for byte in text {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            found = first(&server, Question::Any, soon()) => assert_eq!(found.unwrap(), wanted),
            () = sender => {}
        }
    }
}

#[tokio::test]
async fn silence_and_ends_are_told() {
    let (mut client, server) = pair().await;
    let begun = Instant::now();
    assert_eq!(
        first(&server, Question::Any, begun + SILENCE).await.unwrap(),
        First::Silent
    );
    assert!(begun.elapsed() < Duration::from_millis(500));
    client.write_all(b"GE").await.unwrap();
    assert_eq!(
        first(&server, Question::Any, Instant::now() + SILENCE)
            .await
            .unwrap(),
        First::Opaque
    );
    client.shutdown().await.unwrap();
    assert_eq!(
        first(&server, Question::Any, soon()).await.unwrap(),
        First::Opaque
    );
    let (mut client, server) = pair().await;
    client.shutdown().await.unwrap();
    assert_eq!(first(&server, Question::Any, soon()).await.unwrap(), First::Ended);
}
