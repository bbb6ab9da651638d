//! What consistent hashing goes by.
//!
//! In: what is hashed, and a request's head. Out: a number that every sidecar makes of the same request. Never: a seed of the process: two
//! callers must come to the same endpoint.

use super::RequestHead;
use super::matches::first_value;
use super::session::cookie;
use std::net::IpAddr;
use weft_proto::model::Hash;

/// Hashes what is asked for; `None`: the request has none of it.
pub fn of(hash: &Hash, head: &RequestHead<'_>, source: IpAddr) -> Option<u64> {
    match hash {
        Hash::Header(name) => Some(bytes(head.headers.get(&**name)?.as_bytes())),
        Hash::Cookie { name, .. } => Some(bytes(cookie(head.headers, name)?)),
        Hash::Source => Some(match source.to_canonical() {
            IpAddr::V4(four) => bytes(&four.octets()),
            IpAddr::V6(six) => bytes(&six.octets()),
        }),
        Hash::Query(name) => Some(bytes(&first_value(head.query?, name)?)),
    }
}

/// FNV-1a, its bits mixed once more: the same in every process and version.
pub fn bytes(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (folded ^ (folded >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
