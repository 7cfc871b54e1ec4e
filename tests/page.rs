//! The admin page in a real browser: what an operator sees of a running proxy.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

mod support;

use std::net::SocketAddr;
use std::num::NonZeroU32;

use serde_json::Value;
use support::chromedriver::{self, Browser};
use support::proxy::TestProxy;
use support::{local, wait_until};
use warmline::admin::Admin;
use warmline::compare::backend::EmbeddedBackend;
use warmline::compare::load::{Load, Settings};
use warmline::route::Action;

/// `WebDriver`'s names of keys.
const TAB: &str = "\u{e004}";
const RIGHT: &str = "\u{e014}";
const END: &str = "\u{e010}";
const ESCAPE: &str = "\u{e00c}";

/// A proxy with its admin listener, and a backend that answers.
struct Scene {
    admin: Admin,
    proxy: TestProxy,
    _backend: EmbeddedBackend,
}

impl Scene {
    fn start(keep_alive: bool) -> Scene {
        Scene::named("app", keep_alive)
    }

    /// With an upstream of this name.
    fn named(name: &str, keep_alive: bool) -> Scene {
        let backend = EmbeddedBackend::start("one", &[local(0)]).unwrap();
        let proxy = TestProxy::to(backend.addresses()[0])
            .settings(|settings| {
                name.clone_into(&mut settings.upstreams[0].name);
                settings.routes[0].route.action = Action::Upstream(name.to_owned());
                settings.upstreams[0].pool.keep_alive.enabled = keep_alive;
            })
            .start();
        let admin = admin(&proxy, local(0));
        Scene {
            admin,
            proxy,
            _backend: backend,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.admin.address())
    }

    /// Forty requests a second over four connections.
    fn load(&self) -> Load {
        let [rate, connections] = [40, 4].map(|number| NonZeroU32::new(number).unwrap());
        let load = Load::start(Settings::steady(self.proxy.addr(), rate, connections)).unwrap();
        wait_until(support::PATIENCE, "the load to be answered", || {
            load.so_far().answered > 4
        });
        load
    }

    /// The page, once it shows its first figures.
    fn open(&self, browser: &Browser) {
        browser.open(&self.url());
        browser.wait_for(
            "the page to show the upstream",
            "return document.querySelector('.upstream h2') !== null",
        );
    }
}

fn admin(proxy: &TestProxy, address: SocketAddr) -> Admin {
    let server = proxy.server();
    Admin::start(address, server.control()).unwrap()
}

/// The number that stands under this label of the upstream.
fn figure(label: &str) -> String {
    format!(
        "parseFloat([...document.querySelectorAll('.upstream .figures > div')]\
         .find((one) => one.firstChild.textContent === '{label}').lastChild.firstChild.textContent)"
    )
}

#[test]
fn the_page_shows_what_the_proxy_does_as_it_does_it() {
    if !chromedriver::is_there("the_page_shows_what_the_proxy_does_as_it_does_it") {
        return;
    }
    let scene = Scene::start(true);
    let browser = Browser::start(1280, 900, false);
    // What it asked for by itself.
    browser.requests();
    scene.open(&browser);
    let text = |selector: &str| {
        browser.run(&format!(
            "return document.querySelector('{selector}').textContent"
        ))
    };
    assert_eq!(text(".upstream h2"), "app");
    assert_eq!(text(".upstream .arm"), "pooled");
    assert_eq!(text("#status"), "live");
    browser.wait_for(
        "no requests yet",
        &format!("return {} === 0", figure("Requests")),
    );
    assert_eq!(
        browser.run("return document.querySelectorAll('.cells .cell').length"),
        0
    );

    let load = scene.load();
    browser.wait_for("requests", &format!("return {} > 20", figure("Requests")));
    browser.wait_for("reuse", &format!("return {} > 90", figure("Reuse")));
    browser.wait_for(
        "the connections, with what they carried",
        "const cells = [...document.querySelectorAll('.cells .cell')];\
         return cells.length > 0 && cells.some((cell) => parseInt(cell.textContent) > 1)",
    );
    browser.wait_for(
        "the kernel's sockets on both sides",
        "return ['towards', 'own'].every((side) => document.querySelector(\
         `.upstream [data-side=${side}] .s-ESTABLISHED b`) !== null)",
    );
    browser.wait_for(
        "the picture of them",
        "return document.querySelector('.upstream .area.s-ESTABLISHED') !== null",
    );
    browser.wait_for(
        "the ports that are left",
        "const meter = document.querySelector('.upstream [role=meter]');\
         return meter !== null && Number(meter.getAttribute('aria-valuenow')) > 0",
    );

    drop(load);
    browser.wait_for(
        "no requests any more",
        &format!("return {} === 0", figure("Requests")),
    );

    let faults: Vec<_> = browser.log("browser");
    assert!(faults.is_empty(), "the console says {faults:?}");
    let asked = browser.requests();
    assert!(
        asked.iter().any(|url| url.ends_with("/events")),
        "{asked:?}"
    );
    for url in asked {
        assert!(
            url.starts_with(&scene.url()) || url.starts_with("data:"),
            "it asks for {url}"
        );
    }
}

#[test]
fn the_short_mode_is_told_from_the_pooled_one() {
    if !chromedriver::is_there("the_short_mode_is_told_from_the_pooled_one") {
        return;
    }
    let scene = Scene::start(false);
    let browser = Browser::start(1280, 900, false);
    scene.open(&browser);
    let _load = scene.load();
    browser.wait_for("connects", &format!("return {} > 20", figure("Connects")));
    browser.wait_for("no reuse", &format!("return {} === 0", figure("Reuse")));
    browser.wait_for(
        "TIME_WAIT at the backend, which closes first",
        "const count = document.querySelector('.upstream [data-side=own] .s-TIME_WAIT b');\
         return count !== null && parseInt(count.textContent) > 20",
    );
    assert_eq!(
        browser.run("return document.querySelector('.upstream .arm').textContent"),
        "short"
    );
}

#[test]
fn it_is_dark_or_light_as_its_reader_has_it_and_can_be_switched() {
    if !chromedriver::is_there("it_is_dark_or_light_as_its_reader_has_it_and_can_be_switched") {
        return;
    }
    let scene = Scene::start(true);
    let ground = "const [red] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g); return Number(red)";
    for dark in [false, true] {
        let browser = Browser::start(1280, 900, dark);
        scene.open(&browser);
        let is_dark = || browser.run(ground).as_f64().unwrap() < 100.0;
        assert_eq!(is_dark(), dark);
        browser.run("document.querySelector('#theme').click()");
        assert_eq!(is_dark(), !dark);
        // It stays so.
        scene.open(&browser);
        assert_eq!(is_dark(), !dark);
    }
}

#[test]
fn nothing_has_to_be_scrolled_sideways_on_any_screen() {
    if !chromedriver::is_there("nothing_has_to_be_scrolled_sideways_on_any_screen") {
        return;
    }
    // A name that cannot be broken between words.
    let scene = Scene::named(&"x".repeat(60), true);
    let _load = scene.load();
    let browser = Browser::start(1280, 900, false);
    scene.open(&browser);
    browser.wait_for(
        "cells",
        "return document.querySelector('.cells .cell') !== null",
    );
    for width in [360, 390, 600, 721, 768, 1081, 1280, 1920] {
        browser.resize(width, 800);
        browser.wait_for("the width", &format!("return innerWidth === {width}"));
        let beyond = browser.run(
            "return [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() \
             && one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.className.toString())",
        );
        assert_eq!(beyond, Value::Array(Vec::new()), "at {width} px");
        let wide = browser.run("return document.documentElement.scrollWidth <= innerWidth");
        assert_eq!(wide, true, "at {width} px");
    }
}

#[test]
fn the_keyboard_reaches_every_connection() {
    if !chromedriver::is_there("the_keyboard_reaches_every_connection") {
        return;
    }
    let scene = Scene::start(true);
    // Two at once, so that there are two.
    let _loads = [scene.load(), scene.load()];
    let browser = Browser::start(1280, 900, false);
    scene.open(&browser);
    browser.wait_for(
        "cells",
        "return document.querySelectorAll('.cells .cell').length > 1",
    );
    let at = "[...document.querySelectorAll('.cells .cell')].indexOf(document.activeElement)";
    let mut tabs = 0;
    while browser.run(&format!("return {at}")) == -1 {
        assert!(tabs < 40, "no cell after {tabs} tabs");
        browser.keys(&[TAB]);
        tabs += 1;
    }
    let tip = || {
        browser.run(
            "const tip = document.querySelector('#tip'); return tip.hidden ? '' : tip.innerText",
        )
    };
    let said = tip();
    let said = said.as_str().unwrap();
    assert!(
        said.contains("so far") && said.contains("worker 0"),
        "{said:?}"
    );
    assert_eq!(browser.run(&format!("return {at}")), 0);
    browser.keys(&[RIGHT]);
    assert_eq!(browser.run(&format!("return {at}")), 1);
    let label = browser.run("return document.activeElement.getAttribute('aria-label')");
    assert!(label.as_str().unwrap().contains("request"), "{label}");
    browser.keys(&[END]);
    let last = format!("return {at} === document.querySelectorAll('.cells .cell').length - 1");
    assert_eq!(browser.run(&last), true);
    browser.keys(&[ESCAPE]);
    assert_eq!(tip(), "");
    // One stop for all of them: the next tab leaves.
    browser.keys(&[TAB]);
    assert_eq!(browser.run(&format!("return {at}")), -1);
}

#[test]
fn it_says_when_the_proxy_is_gone_and_goes_on_when_it_is_back() {
    if !chromedriver::is_there("it_says_when_the_proxy_is_gone_and_goes_on_when_it_is_back") {
        return;
    }
    let Scene {
        admin: first,
        proxy,
        _backend,
    } = Scene::start(true);
    let address = first.address().ip().unwrap();
    let browser = Browser::start(1280, 900, false);
    browser.open(&format!("http://{address}/"));
    let status = |wanted: &str| {
        format!("return document.querySelector('#status').textContent === '{wanted}'")
    };
    browser.wait_for("it to be live", &status("live"));
    drop(first);
    browser.wait_for("it to say that the proxy is gone", &status("gone"));
    let note = "const note = document.querySelector('#gone'); return !note.hidden && note.textContent.includes('trying again')";
    assert_eq!(browser.run(note), true);
    let _again = admin(&proxy, address);
    browser.wait_for("it to be live again", &status("live"));
    assert_eq!(
        browser.run("return document.querySelector('#gone').hidden"),
        true
    );
}

#[test]
fn a_name_is_never_markup() {
    if !chromedriver::is_there("a_name_is_never_markup") {
        return;
    }
    let name = "<img src=x onerror=\"document.title='broken'\">";
    let scene = Scene::named(name, true);
    let browser = Browser::start(1280, 900, false);
    scene.open(&browser);
    assert_eq!(
        browser.run("return document.querySelector('.upstream h2').textContent"),
        name
    );
    assert_eq!(browser.run("return document.images.length"), 0);
    assert_eq!(browser.run("return document.title"), "Warmline");
    // Not even a script that gets into it may run.
    browser.run(
        "const script = document.createElement('script');\
         script.textContent = \"document.title = 'broken'\"; document.body.append(script)",
    );
    assert_eq!(browser.run("return document.title"), "Warmline");
}
