//! A clock that jumps: closed while certificates aren't valid by it, and open again.

use super::*;

/// Both ends, on one machine whose clock jumps.
struct Jumping {
    wall: Wall,
    web: Identity,
    cart: Identity,
}

impl Jumping {
    fn start(ca: &Ca) -> Self {
        let wall = Wall::default();
        let by = |id| {
            let identity = Identity::by(TrustDomain::new(DOMAIN).unwrap(), wall.clone());
            identity.install(ca.sign(id, |_| {})).unwrap();
            identity
        };
        Self {
            web: by(WEB),
            cart: by(CART),
            wall,
        }
    }

    /// A handshake; why it failed at the caller and at the callee.
    async fn meet(&self) -> (Option<&'static str>, Option<&'static str>) {
        let (ours, theirs) = duplex(64 * 1024);
        let expected = CART.parse().unwrap();
        let (out, back) = tokio::join!(self.web.connect(ours, &expected, Alpn::H1), async {
            // A callee that refuses lets go of the connection.
            self.cart.accept(theirs).await.map(|_| ())
        });
        let reason = |error: PeerUnverified| error.reason();
        (out.map(|_| ()).map_err(reason).err(), back.map_err(reason).err())
    }
}

#[tokio::test]
async fn the_clock_may_jump() {
    let ca = Ca::new();
    let both = Jumping::start(&ca);
    for seconds in [0, 300, -600, 300] {
        both.wall.jump(seconds);
        assert_eq!(both.meet().await, (None, None), "{seconds} s");
    }
    // Further than certificates last: closed at both ends, and a new certificate is wanted at once.
    both.wall.jump(25 * 3_600);
    assert_eq!(both.meet().await.0, Some("own-certificate-expired"));
    assert!(!both.web.ready() && !both.cart.ready());
    let tomorrow = |params: &mut rcgen::CertificateParams| {
        params.not_before += Duration::hours(25);
        params.not_after += Duration::hours(25);
    };
    both.web.install(ca.sign(WEB, tomorrow)).unwrap();
    assert!(both.web.ready());
    // One end that is too late is enough.
    assert_eq!(both.meet().await.1, Some("own-certificate-expired"));
    both.cart.install(ca.sign(CART, tomorrow)).unwrap();
    assert_eq!(both.meet().await, (None, None));
    // And back again.
    both.wall.jump(-25 * 3_600);
    assert!(!both.web.ready());
}
