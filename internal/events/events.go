// Package events carries what happens in the engine to whoever listens: GET /events, and later the
// dashboard. It keeps the last Keep messages for `events --since`.
package events
