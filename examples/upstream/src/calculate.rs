//! The `calculate` action: add, subtract, multiply and divide on whole numbers.

use std::collections::HashMap;

use trunkline_service::Reply;

/// `operation`, `a` and `b` from the parameters. Division drops the rest, as the seed's.
pub(crate) fn calculate(params: &HashMap<String, String>) -> Reply {
    let param = |name: &str| params.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let (Some(operation), Some(a), Some(b)) = (param("operation"), param("a"), param("b")) else {
        return Reply::code(400, "missing parameters: operation, a, b");
    };
    let (Ok(a), Ok(b)) = (a.parse::<i64>(), b.parse::<i64>()) else {
        return Reply::code(400, "a and b must be whole numbers");
    };
    let (sign, result) = match operation {
        "add" => ("+", a.checked_add(b)),
        "subtract" => ("-", a.checked_sub(b)),
        "multiply" => ("*", a.checked_mul(b)),
        "divide" if b == 0 => return Reply::code(400, "division by zero"),
        "divide" => ("/", a.checked_div(b)),
        _ => return Reply::code(400, "operation must be add, subtract, multiply or divide"),
    };
    let Some(result) = result else {
        return Reply::code(400, "the result does not fit 64 bits");
    };
    let mut reply = Reply::ok(format!("{a} {sign} {b} = {result}"));
    reply.headers.insert("operation".to_owned(), operation.to_owned());
    reply.headers.insert("result".to_owned(), result.to_string());
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(operation: &str, a: &str, b: &str) -> (i32, String) {
        let pairs = [("operation", operation), ("a", a), ("b", b)];
        let reply = calculate(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        (reply.code, String::from_utf8(reply.data.to_vec()).unwrap())
    }

    #[test]
    fn the_four_operations() {
        assert_eq!(result("add", "2", "3"), (200, "2 + 3 = 5".into()));
        assert_eq!(result("subtract", "2", "3"), (200, "2 - 3 = -1".into()));
        assert_eq!(result("multiply", "-4", "3"), (200, "-4 * 3 = -12".into()));
        assert_eq!(result("divide", "7", "2"), (200, "7 / 2 = 3".into()));
    }

    #[test]
    fn what_cannot_be_calculated_is_400() {
        let max = i64::MAX.to_string();
        let min = i64::MIN.to_string();
        for (operation, a, b) in [
            ("divide", "1", "0"),
            ("divide", min.as_str(), "-1"),
            ("add", max.as_str(), "1"),
            ("power", "1", "1"),
            ("add", "one", "1"),
            ("", "1", "1"),
            ("add", "", "1"),
        ] {
            assert_eq!(result(operation, a, b).0, 400, "{operation} {a} {b}");
        }
    }
}
