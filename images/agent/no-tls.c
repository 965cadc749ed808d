// Preloaded into criu in GnuTLS's place, by its name: criu is linked with it for page servers, which are not used here, and half of the time
// until criu's main is the loading of it and of the eight libraries that it wants. A function is looked for when it is called, which is never;
// what must be there is the one variable that criu takes.
void (*gnutls_free)(void *);
