pub mod weft {
    pub mod v1 {
        include!("weft.v1.rs");
    }
}
pub mod envoy {
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("envoy.service.discovery.v3.rs");
            }
        }
    }
}
pub use envoy::service::discovery::v3 as discovery;
pub use weft::v1;
