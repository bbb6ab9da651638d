//! What a gateway serves, as a table.
//!
//! Enters: its page. Leaves: a row for each rule. Never: a table of a sidecar, which serves nothing of its own.

use super::{backends, list, text};
use crate::status::columns;
use serde_json::Value;

/// The table; empty: it is no gateway.
pub(super) fn table(page: &Value) -> String {
    let mut out = String::new();
    if page["gateway"] != true {
        return out;
    }
    let mut rows = Vec::new();
    for port in list(&page["ports"]) {
        let open = match (port["open"].as_bool(), port["error"].as_str()) {
            (_, Some(error)) => format!("no: {error}"),
            (Some(true), None) => "yes".to_owned(),
            _ => "not yet".to_owned(),
        };
        for listener in list(&port["listeners"]) {
            let row = |host: String, rule: Option<&Value>| {
                vec![
                    text(&listener["port"]),
                    text(&port["bind"]),
                    open.clone(),
                    text(&listener["protocol"]),
                    host,
                    rule.map_or_else(|| "-".to_owned(), backends),
                    text(rule.map_or(&listener["origin"], |rule| &rule["origin"])),
                ]
            };
            let mut own = Vec::new();
            for host in list(&listener["hosts"]) {
                let rules = list(&host["rules"]);
                own.extend(rules.map(|rule| row(text(&host["host"]), Some(rule))));
            }
            for rule in list(&listener["connections"]) {
                let names = match text(&rule["serverNames"]) {
                    none if none.is_empty() => text(&listener["host"]),
                    names => names,
                };
                own.push(row(names, Some(rule)));
            }
            if own.is_empty() {
                own.push(row(text(&listener["host"]), None));
            }
            rows.extend(own);
        }
    }
    let head = [
        "PORT",
        "LISTENS ON",
        "OPEN",
        "PROTOCOL",
        "HOST",
        "BACKENDS",
        "FROM",
    ];
    columns(&mut out, &head, rows);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_for_each_rule() {
        assert_eq!(table(&json!({"gateway": false, "ports": []})), "");
        let rule = json!({"origin": "HTTPRoute shop/web", "backends": [{"service": "shop/web", "port": 80, "weight": 1}]});
        let listener = json!({"port": 80, "protocol": "HTTP", "host": "*", "origin": "Gateway edge/front",
            "hosts": [{"host": "shop.test", "rules": [rule]}], "connections": []});
        let bare = json!({"port": 7000, "protocol": "TCP", "host": "*", "origin": "Gateway edge/front", "hosts": [], "connections": []});
        let page = json!({"gateway": true, "ports": [
            {"bind": 8080, "open": true, "error": null, "listeners": [listener]},
            {"bind": 7000, "open": false, "error": "in use", "listeners": [bare]},
        ]});
        let table = table(&page);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        for word in [
            "80",
            "8080",
            "yes",
            "HTTP",
            "shop.test",
            "shop/web:80",
            "HTTPRoute shop/web",
        ] {
            assert!(lines[1].contains(word), "{word} in {table}");
        }
        assert!(
            lines[2].contains("no: in use") && lines[2].contains("Gateway edge/front"),
            "{table}"
        );
    }
}
