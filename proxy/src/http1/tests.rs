

#[test]
fn a_bare_lf_behind_the_head_is_a_byte_of_the_body() {
    use super::head::may_be_complete;
    let message = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}\n";
    assert!(matches!(may_be_complete(message, 0), Ok(true)));
    assert!(may_be_complete(b"HTTP/1.1 200 OK\ncontent-length: 3\r\n\r\n", 0).is_err());
}
