"""The description of the public routes as a page for people, which needs nothing from elsewhere."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

Json = dict[str, Any]

ERROR_CONTENT: Json = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
"""What every error has."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Callboard API</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2430; background: #fff }}
h2 {{ font: 600 1.1rem/1.4 ui-monospace, monospace; margin-top: 2.5rem; padding-top: 1rem;
  border-top: 1px solid #d5dae1 }}
code, td:first-child {{ font-family: ui-monospace, monospace; font-size: .9em }}
table {{ border-collapse: collapse; width: 100%; margin: .5rem 0 1rem }}
th {{ text-align: left; font-weight: 600 }}
th, td {{ padding: .25rem .75rem .25rem 0; vertical-align: top; border-bottom: 1px solid #eceff3 }}
.method {{ color: #0b6e4f }}
.callers {{ color: #5b6675 }}
</style>
</head>
<body>
<h1>Callboard API</h1>
<p>Send your key as the header <code>Authorization: Bearer KEY</code>, as <code>x-api-key: KEY</code>, or as the
query parameter <code>key</code>. Errors are <code>{{"status":"error","message":...}}</code>; where a Discord user
would read it, <code>discord</code> holds a text for them. Answers to GET with a key are
<code>Cache-Control: no-store</code>. For programs: <a href="openapi.json">openapi.json</a>.</p>
{errors}
{routes}
</body>
</html>
"""


def page(document: Json, errors: Mapping[str, str]) -> str:
    """The page of a merged OpenAPI document; `errors` are those that every route may answer, by status."""
    schemas = document["components"]["schemas"]
    sections = (
        _section(method, path, operation, schemas, errors)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    return _PAGE.format(errors=_table(("any route", ""), iter(errors.items())), routes="\n".join(sections))


def _section(method: str, path: str, operation: Json, schemas: Json, errors: Mapping[str, str]) -> str:
    parts = [
        f'<h2><span class="method">{escape(method.upper())}</span> {escape(path)}</h2>',
        f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>",
        f'<p class="callers">Who may call: {escape(operation["x-callers"])}.</p>',
        _table(("parameter", "in", "", ""), map(_parameter_row, operation["parameters"])),
        _table(("body", "", "", ""), _body_rows(operation, schemas)),
        _table(
            ("answer", "", ""),
            (
                (status, answer.get("description", ""), ", ".join(_fields(answer, schemas)))
                for status, answer in operation["responses"].items()
                if answer.get("description") != errors.get(status)
            ),
        ),
    ]
    return "\n".join(part for part in parts if part)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    if not lines:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _parameter_row(parameter: Json) -> tuple[str, ...]:
    need = "required" if parameter.get("required") else "optional"
    return parameter["name"], parameter["in"], need, _type(parameter.get("schema", {}), parameter)


def _body_rows(operation: Json, schemas: Json) -> Iterator[tuple[str, ...]]:
    body = operation.get("requestBody", {})
    for media_type, content in body.get("content", {}).items():
        schema = _resolve(content.get("schema", {}), schemas)
        for name, field in schema.get("properties", {}).items():
            need = "required" if name in schema.get("required", ()) else "optional"
            yield name, media_type, need, _type(_resolve(field, schemas), field)


def _fields(answer: Json, schemas: Json) -> Iterator[str]:
    for media_type, content in answer.get("content", {}).items():
        schema = _resolve(content.get("schema", {}), schemas)
        yield from schema.get("properties", {}) or [media_type]


def _type(schema: Json, described: Json) -> str:
    choices = [schema, *schema.get("anyOf", ())]
    names = [str(one["type"]) for one in choices if one.get("type") not in (None, "null")]
    return ": ".join(filter(None, (" or ".join(names), described.get("description", ""))))


def _resolve(schema: Json, schemas: Json) -> Json:
    reference = schema.get("$ref")
    resolved: Json = schemas.get(reference.rpartition("/")[2], {}) if reference else schema
    return resolved
