// SPDX-License-Identifier: Apache-2.0
//! Names of objects.

use podswitch_api::limits::MAX_NAME_LENGTH;
use podswitch_api::object::NamespacedName;

/// How much is left of a Service's name where the whole does not fit.
const CUT_NAME: usize = 26;
/// The same of a port's name.
const CUT_PORT: usize = 15;

/// The name of an object, and whether something was cut, so that another one could have the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ObjectName {
    pub(crate) text: String,
    pub(crate) is_cut: bool,
}

/// The name for a port of a Service in one family, such as `shop/web:http:ipv4`.
pub(crate) fn object_name(service: &NamespacedName, port: &str, v4: bool) -> ObjectName {
    let family = if v4 { "ipv4" } else { "ipv6" };
    let text = format!("{service}:{port}:{family}");
    if text.len() <= MAX_NAME_LENGTH {
        return ObjectName {
            text,
            is_cut: false,
        };
    }
    let cut = |text: &str, most| text.chars().take(most).collect::<String>();
    let (namespace, name, port) = (
        &service.namespace,
        cut(&service.name, CUT_NAME),
        cut(port, CUT_PORT),
    );
    let hash = hash(&text);
    ObjectName {
        text: format!("{namespace}/{name}.{hash:016x}:{port}:{family}"),
        is_cut: true,
    }
}

/// FNV-1a (draft-eastlake-fnv section 5). That two names have the same is seen to by claims.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_long_as_they_may_be() {
        let service = |n: usize| NamespacedName {
            namespace: "n".repeat(63),
            name: "s".repeat(n),
        };
        let short = object_name(&service(58), "", true);
        assert_eq!((short.text.len(), short.is_cut), (128, false));
        let long = object_name(&service(63), &"p".repeat(63), true);
        assert_eq!((long.text.len(), long.is_cut), (128, true));
        assert_ne!(long, object_name(&service(62), &"p".repeat(63), true));
        assert_ne!(long, object_name(&service(63), &"p".repeat(62), true));
    }
}
