//! Who may do what by way of a gateway: by the gateway's identity at the Service, by address and request at the gateway itself.

use super::{CLIENT, FRONT, ask, asked};
use crate::mesh::{Mesh, Temporary, until};

/// A caller in the mesh.
const NEIGHBOUR: &str = "shop/deployment/web";

/// The pods of the Service that is called.
const CART: &str = "selector: {matchLabels: {app: cart}}";
/// The gateway's pods, by a label and by their Gateway.
const PODS: &str = "selector: {matchLabels: {app: front}}";
const ITSELF: &str = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}]";

fn policy<'a>(mesh: &'a Mesh, namespace: &str, whom: &str, spec: &str) -> Temporary<'a> {
    mesh.with(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: way, namespace: {namespace}}}\n\
         spec: {{{whom}, {spec}}}\n"
    ))
}

/// Waits until a caller in the mesh gets this status.
fn neighbour(mesh: &Mesh, status: u16) {
    until(&format!("{status} for a caller in the mesh"), || {
        let answer = mesh.curl(NEIGHBOUR, &["http://cart/items"]);
        match answer.status == status {
            true => Ok(()),
            false => Err(format!("{answer:?}")),
        }
    });
}

/// A Service's policy names the gateway's service account.
pub fn by_the_gateways_identity(mesh: &Mesh) {
    let url = format!("http://{FRONT}/cart");
    let through = ["-H", "Host: shop.test", &url];
    let source = "rules: [{from: [{source: {principals: [cluster.local/ns/edge/sa/front]}}]}]";
    asked(mesh, 200, &through);
    neighbour(mesh, 200);
    {
        let _only = policy(mesh, "shop", CART, &format!("action: ALLOW, {source}"));
        neighbour(mesh, 403);
        assert_eq!(ask(mesh, &through).status, 200);
    }
    let _not = policy(mesh, "shop", CART, &format!("action: DENY, {source}"));
    asked(mesh, 403, &through);
    neighbour(mesh, 200);
}

/// A policy of the gateway's own pods is for clients outside the mesh: they have an address and ask for something, and have no identity.
pub fn of_the_gateways_pods(mesh: &Mesh) {
    let (cart, other) = (format!("http://{FRONT}/cart"), format!("http://{FRONT}/other"));
    let (cart, other) = (
        ["-H", "Host: shop.test", &cart],
        ["-H", "Host: shop.test", &other],
    );
    asked(mesh, 200, &cart);
    {
        let rule = "rules: [{to: [{operation: {hosts: [shop.test], paths: [/cart], ports: ['8080']}}]}]";
        let _denied = policy(mesh, "edge", PODS, &format!("action: DENY, {rule}"));
        asked(mesh, 403, &cart);
        asked(mesh, 200, &other);
        // A caller in the mesh doesn't come by here.
        neighbour(mesh, 200);
    }
    {
        let source = "rules: [{from: [{source: {principals: ['*']}}]}]";
        let _nobody = policy(mesh, "edge", PODS, &format!("action: ALLOW, {source}"));
        asked(mesh, 403, &other);
        asked(mesh, 403, &cart);
    }
    let url = format!("http://{FRONT}/other?headers=1");
    let seen = asked(mesh, 200, &["-H", "Host: shop.test", &url]).echo();
    let address = seen["headers"]["x-forwarded-for"].as_str().unwrap();
    let source = format!("rules: [{{from: [{{source: {{ipBlocks: ['{address}']}}}}]}}]");
    let _address = policy(mesh, "edge", ITSELF, &format!("action: DENY, {source}"));
    asked(mesh, 403, &other);
}

/// A policy of the root namespace is for every gateway of a class.
pub fn of_a_class(mesh: &Mesh) {
    const CLASS: &str = "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: weft}]";
    let other = format!("http://{FRONT}/other");
    let other = ["-H", "Host: shop.test", &other];
    let rule = "action: DENY, rules: [{to: [{operation: {hosts: [shop.test], paths: [/other]}}]}]";
    asked(mesh, 200, &other);
    {
        let _denied = policy(mesh, "weft-system", CLASS, rule);
        asked(mesh, 403, &other);
        neighbour(mesh, 200);
    }
    asked(mesh, 200, &other);
}

/// What is refused on the way is told to gRPC as gRPC's status.
pub fn grpc_is_refused_in_its_own_words(mesh: &Mesh) {
    const ROUTES: &str = r"
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: shop}
spec:
  selector: {app: nobody}
  ports: [{name: grpc, port: 80, targetPort: 8080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: calls, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: http}]
  hostnames: [calls.test]
  rules:
    - matches: [{method: {service: weft.echo.v1.Echo}}]
      backendRefs: [{name: cart, port: 81}]
    - matches: [{method: {service: nobody.Nobody}}]
      backendRefs: [{name: nobody, port: 80}]
";
    let message = format!("@{}", mesh.write(CLIENT, "empty.grpc", "\0\0\0\0\0"));
    let call = |method: &str, status: &str| {
        let url = format!("http://{FRONT}/{method}");
        let arguments = [
            "--http2-prior-knowledge",
            "-i",
            "-H",
            "Host: calls.test",
            "-H",
            "Content-Type: application/grpc",
            "-H",
            "TE: trailers",
            "--data-binary",
            &message,
            &url,
        ];
        until(&format!("grpc-status {status} of {method}"), || {
            let answer = ask(mesh, &arguments);
            let told = answer.body.to_ascii_lowercase();
            let wanted = format!("grpc-status: {status}\r\n");
            match answer.status == 200 && told.contains(&wanted) {
                true => Ok(()),
                false => Err(format!("{answer:?}")),
            }
        });
    };
    let _routes = mesh.with(ROUTES);
    call("weft.echo.v1.Echo/Say", "0");
    call("nobody.Nobody/Say", "14");
    call("else.Else/Say", "12");
    // The same host has an older route of the other kind.
    let route = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: calls-too, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: edge, sectionName: http}]
  hostnames: ['*.test']
  rules: [{backendRefs: [{name: web, port: 80}]}]
";
    let route = mesh.with(route);
    until("the younger route is refused", || {
        let all = mesh.get("HTTPRoute", "shop");
        let mine = all.iter().find(|one| one["metadata"]["name"] == "calls-too");
        let accepted = mine.and_then(|one| one.pointer("/status/parents/0/conditions")?.as_array());
        let accepted = accepted.and_then(|all| all.iter().find(|one| one["type"] == "Accepted"));
        match accepted {
            Some(found) if found["status"] == "False" && found["reason"] == "HostnameConflict" => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    call("else.Else/Say", "12");
    drop(route);
    {
        let rule = "rules: [{to: [{operation: {paths: [/weft.echo.v1.Echo/Say]}}]}]";
        let _denied = policy(mesh, "shop", CART, &format!("action: DENY, {rule}"));
        call("weft.echo.v1.Echo/Say", "7");
    }
    call("weft.echo.v1.Echo/Say", "0");
    let rule = "rules: [{to: [{operation: {hosts: [calls.test]}}]}]";
    let _denied = policy(mesh, "edge", ITSELF, &format!("action: DENY, {rule}"));
    call("weft.echo.v1.Echo/Say", "7");
}
