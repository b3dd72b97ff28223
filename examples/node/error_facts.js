// What a failed call says: its google.rpc details, from the trailer `grpc-status-details-bin`.
'use strict';

const grpc = require('@grpc/grpc-js');
const protobuf = require('protobufjs');

// The part of google/rpc/status.proto and error_details.proto that Everlook sends.
const google = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message BadRequest {
    message FieldViolation { string field = 1; string description = 2; }
    repeated FieldViolation field_violations = 1;
  }
  message ResourceInfo { string resource_type = 1; string resource_name = 2; }
  message RetryInfo { Duration retry_delay = 1; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
`, { keepCase: true }).root.lookup('google.rpc');

/** Code, message, reason, field, got, expected and retryAfterSeconds of an error of grpc-js; absent when not said. */
function errorFacts(error) {
  const facts = { code: grpc.status[error.code], message: error.details };
  const [trailer] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (!trailer) return facts;
  for (const any of google.Status.decode(trailer).details) {
    const name = any.type_url.split('/').pop().replace('google.rpc.', '');
    const detail = google[name]?.decode(any.value);
    if (name === 'ErrorInfo') Object.assign(facts, { reason: detail.reason, ...detail.metadata });
    else if (name === 'BadRequest') facts.field = detail.field_violations[0]?.field;
    else if (name === 'ResourceInfo') facts.resource = detail.resource_name;
    else if (name === 'RetryInfo') {
      facts.retryAfterSeconds = Number(detail.retry_delay.seconds) + detail.retry_delay.nanos / 1e9;
    }
  }
  return facts;
}

module.exports = { errorFacts };
