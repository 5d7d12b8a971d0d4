// SPDX-License-Identifier: Apache-2.0
//! `get`: pages and filters.

use podswitch_api::ErrorCode;
use podswitch_api::desired::Query;
use podswitch_api::method::{Change, Filter, GetParams};
use podswitch_api::object::{Key, Kind, Object};

use super::common::*;

#[test]
fn get_pages_and_filters() {
    let mut changes: Vec<Change> = (1..=9).map(|n| set(port(&format!("p{n}"), n))).collect();
    changes.push(set(rule("r", "p1")));
    let m = model(&changes);
    let mut params = GetParams {
        limit: Some(4),
        ..GetParams::all(Kind::Port)
    };
    let mut seen = Vec::new();
    loop {
        let page = Query::new(&params).unwrap().run(m.state());
        let selected = Query::new(&params)
            .unwrap()
            .select(m.state().objects(Kind::Port));
        assert_eq!(page, selected);
        seen.extend(page.objects.iter().map(Object::key));
        match page.resume {
            None => break,
            resume => params.resume = resume,
        }
    }
    assert_eq!(seen, m.state().keys(Kind::Port).collect::<Vec<Key>>());
    let filter = Filter {
        address: Some("10.0.0.3".parse().unwrap()),
        ..Filter::default()
    };
    let page = Query::new(&GetParams {
        filter,
        ..GetParams::all(Kind::Port)
    })
    .unwrap()
    .run(m.state());
    assert_eq!(page.objects.len(), 1);
    let wrong = Filter {
        prefix: Some("10.0.0.0/8".parse().unwrap()),
        ..Filter::default()
    };
    for bad in [
        GetParams {
            filter: wrong,
            ..GetParams::all(Kind::Port)
        },
        GetParams {
            limit: Some(0),
            ..GetParams::all(Kind::Port)
        },
        GetParams {
            limit: Some(1001),
            ..GetParams::all(Kind::Port)
        },
        GetParams {
            resume: Some("x".into()),
            ..GetParams::all(Kind::Port)
        },
        GetParams {
            resume: Some(r#"{"kind":"rule","name":"r"}"#.into()),
            ..GetParams::all(Kind::Port)
        },
    ] {
        assert_eq!(
            Query::new(&bad).unwrap_err().code(),
            Some(ErrorCode::InvalidParams)
        );
    }
}
