// Put before each file of libzmq when it is built for size. libzmq formats five short texts with
// iostreams, and these bring in locales, money and dates: more code than all of libzmq's sockets.
// This does what it asks of them: texts and whole numbers, one after the other.
#pragma once

// libzmq has a file in C, which is given this too.
#ifdef __cplusplus

// Whatever else of the library they need is declared before the names below are changed.
#include <sstream>
#include <string>

namespace fieldpost {
class text {
  public:
    text &operator<< (const std::string &part) { return _text += part, *this; }
    text &operator<< (const char *part) { return _text += part, *this; }
    text &operator<< (char part) { return _text += part, *this; }
    template <typename Number> text &operator<< (Number number)
    {
        return _text += std::to_string (number), *this;
    }
    const std::string &str () const { return _text; }

  private:
    std::string _text;
};
}

namespace std {
typedef ::fieldpost::text fieldpost_text;
}
#define ostringstream fieldpost_text
#define stringstream fieldpost_text

#endif
