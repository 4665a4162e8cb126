"""What calls between the gateway and the services carry besides the request."""

TOKEN_HEADER = "x-callboard-token"  # noqa: S105 - the header's name, not a token
KEY_NAME_HEADER = "x-callboard-key"
REQUEST_ID_HEADER = "x-request-id"
