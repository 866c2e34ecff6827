package natsfeed

import "errors"

var (
	// ErrFenced is the error of a publisher that is not the last one any more: somebody else
	// publishes under the name. Nothing that it published since is in the log.
	ErrFenced = errors.New("another publisher has taken over")

	// ErrClosed is returned by the methods of a publisher or replica that was closed.
	ErrClosed = errors.New("closed")

	// ErrPublished is returned by [Publish] when the log has changes that the tables do not have.
	// A program follows first, and then promotes the replica.
	ErrPublished = errors.New("the log has changes that the tables do not have")
)
