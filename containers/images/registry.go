package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// fullName gives a registry's reference with all that is left out of it.
func fullName(ref string) (string, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return "", err
	}
	return r.Name(), nil
}

// pull gets an image from a registry, with the credentials of docker's config if it
// has some for it.
func (s *Store) pull(ctx context.Context, ref string, want *v1.Platform, policy Policy) (*Image, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("no file or folder is there, and it is no registry's reference: %w", err)
	}
	img, _, err := s.known(r.Name(), want.String())
	_, pinned := r.(name.Digest)
	if err != nil || img != nil && (policy != PullAlways || pinned) {
		return img, err
	}
	if policy == PullNever {
		return nil, fmt.Errorf("no file or folder is there, the store does not have it, and the policy is not to ask the registry: %w", ErrNotFound)
	}
	src, err := s.ask(ctx, r, want)
	if err != nil {
		return nil, fmt.Errorf("no file or folder is there, and from the registry: %w", err)
	}
	if err := src.check(want); err != nil {
		return nil, err
	}
	return s.unlessThere(ctx, src)
}

func (s *Store) ask(ctx context.Context, r name.Reference, want *v1.Platform) (*source, error) {
	desc, err := remote.Get(r, remote.WithContext(ctx), remote.WithPlatform(*want), remote.WithUserAgent("powerd"),
		remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithTransport(&loopbackHTTP{remote.DefaultTransport, isLoopback(r.Context().RegistryStr())}))
	if err != nil {
		return nil, err
	}
	img, err := desc.Image()
	if err != nil {
		return nil, err
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	src := &source{ref: r.Name(), platform: want.String(), remote: true}
	if src.config, err = img.ConfigFile(); err != nil {
		return nil, err
	}
	d, err := img.Digest()
	if err != nil {
		return nil, err
	}
	src.digest = d.String()
	for i, l := range m.Layers {
		if _, err := blobName(l.Digest); err != nil {
			return nil, fmt.Errorf("manifest, layers[%d]: %w", i, err)
		}
		src.blobs = append(src.blobs, blob{l.Digest, l.Size, func() (io.ReadCloser, error) {
			layer, err := img.LayerByDigest(l.Digest)
			if err != nil {
				return nil, err
			}
			return layer.Compressed()
		}})
	}
	return src, nil
}

// loopbackHTTP lets plain http through to this host only, and only if the registry
// is on it: go-containerregistry also uses it for private addresses, and a redirect
// may name anything.
type loopbackHTTP struct {
	next     http.RoundTripper
	loopback bool
}

func (l *loopbackHTTP) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !(l.loopback && isLoopback(r.URL.Host)) {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, errors.New("plain http to " + r.URL.Host + " is refused: only registries on this host may do without TLS")
	}
	return l.next.RoundTrip(r)
}

func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
