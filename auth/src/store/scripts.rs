//! The Lua scripts. Each file begins with its contract.

use std::sync::LazyLock;

use redis::Script;
use spoke_store::session_tokens::CLIENT_LUA;

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| {
            Script::new(&[CLIENT_LUA, include_str!("sessions.lua"), include_str!($file)].concat())
        })
    };
}

pub(super) static ATTEMPT: LazyLock<Script> = script!("attempt.lua");
pub(super) static FORGIVE: LazyLock<Script> = script!("forgive.lua");
pub(super) static REGISTER: LazyLock<Script> = script!("register.lua");
pub(super) static LOGIN: LazyLock<Script> = script!("login.lua");
pub(super) static ROTATE: LazyLock<Script> = script!("rotate.lua");
pub(super) static REFRESH: LazyLock<Script> = script!("refresh.lua");
pub(super) static LOGOUT: LazyLock<Script> = script!("logout.lua");
pub(super) static PROVISION: LazyLock<Script> = script!("provision.lua");
pub(super) static EXTEND: LazyLock<Script> = script!("extend.lua");
pub(super) static REVOKE: LazyLock<Script> = script!("revoke.lua");
pub(super) static SET_RATE: LazyLock<Script> = script!("set_rate.lua");
