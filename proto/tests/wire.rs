//! The generated code under `src/wire` is what the `.proto` files say.
//!
//! `WEFT_REGENERATE=1 cargo test -p weft-proto --test wire` writes it anew.

use std::path::Path;

const PROTOS: &[&str] = &[
    "weft/v1/common.proto",
    "weft/v1/service.proto",
    "weft/v1/endpoints.proto",
    "weft/v1/names.proto",
    "weft/v1/pod.proto",
    "weft/v1/route.proto",
    "weft/v1/policy.proto",
    "weft/v1/inbound.proto",
    "weft/v1/gateway.proto",
    "weft/v1/ca.proto",
    "envoy/service/discovery/v3/discovery.proto",
];

#[test]
fn wire_is_what_the_protos_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(PROTOS.iter().map(|p| root.join(p)), [root]).unwrap();
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .unwrap();
    let wire = root.join("src/wire");
    let mut seen = 0;
    for entry in std::fs::read_dir(out.path()).unwrap() {
        let path = entry.unwrap().path();
        let fresh = std::fs::read_to_string(&path).unwrap();
        let committed = wire.join(path.file_name().unwrap());
        seen += 1;
        if std::env::var_os("WEFT_REGENERATE").is_some() {
            std::fs::write(&committed, fresh).unwrap();
            continue;
        }
        let old = std::fs::read_to_string(&committed).unwrap_or_default();
        assert!(
            old == fresh,
            "{} is not what the .proto files say; run WEFT_REGENERATE=1 cargo test -p weft-proto --test wire",
            committed.display()
        );
    }
    assert_eq!(seen, 2, "one file a package");
}
