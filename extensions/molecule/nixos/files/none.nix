# Nothing more than the user's configuration has.
{ }
